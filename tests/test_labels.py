from __future__ import annotations

from typing import Any

import pytest

from arena_ray.config import load_plan
from arena_ray.errors import ConfigError
from arena_ray.labels import check_selector, for_ray, satisfies
from tests.worlds import walk_job


@pytest.mark.parametrize(
    ("condition", "meant"),
    [
        pytest.param("eu", {"eu"}, id="equals"),
        pytest.param("!eu", {"us", "asia", None}, id="not"),
        pytest.param("in(eu, us)", {"eu", "us"}, id="in"),
        pytest.param("!in(eu,us)", {"asia", None}, id="not-in"),
    ],
)
def test_a_condition_means_the_nodes_that_ray_would_take(condition: str, meant: set[str | None]) -> None:
    labels: dict[str | None, dict[str, str]] = {None: {}, **{name: {"zone": name} for name in ("eu", "us", "asia")}}
    assert {name for name, has in labels.items() if satisfies(has, {"zone": condition})} == meant


def test_ray_is_given_values_without_the_space_that_it_would_keep() -> None:
    assert for_ray({"zone": "!in(eu, us)", "disk": "fast"}) == {"zone": "!in(eu,us)", "disk": "fast"}


@pytest.mark.parametrize(
    "condition",
    [pytest.param(text, id=text) for text in ("v", "!v", "in(a, b)", "!in(a,b)", "", "in()", "a b", "in(a;b)", "-a")],
)
def test_a_condition_is_taken_exactly_if_ray_takes_it(condition: str) -> None:
    label_utils = pytest.importorskip("ray._private.label_utils")
    rays_complaint = label_utils.validate_label_selector({"zone": condition})
    if condition == "":
        assert rays_complaint is None  # Ray takes it, and it means nothing.
    try:
        check_selector({"zone": condition})
    except ValueError:
        assert rays_complaint is not None or condition == ""
    else:
        assert rays_complaint is None


@pytest.mark.parametrize(
    ("resources", "fragment"),
    [
        pytest.param({"label_selector": {"zone": "in(a b)"}}, "'!in(a, b)'", id="condition"),
        pytest.param({"label_selector": {"-zone": "a"}}, "'-zone' cannot be a label", id="key"),
        pytest.param({"accelerator_type": "H100"}, "give 'num_gpus' with it", id="no-gpu"),
        pytest.param(
            {"num_gpus": 1, "accelerator_type": "H100", "label_selector": {"ray.io/accelerator-type": "A100"}},
            "give one of the two",
            id="twice",
        ),
    ],
)
def test_bad_selectors_are_found_before_anything_starts(resources: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_plan({"jobs": [walk_job(resources=resources)]})
    assert fragment in str(error.value)


def test_an_accelerator_type_is_a_label() -> None:
    plan = load_plan({"jobs": [walk_job(resources={"num_gpus": 1, "accelerator_type": "H100"})]})
    assert plan.jobs[0].resources.selector == {"ray.io/accelerator-type": "H100"}
