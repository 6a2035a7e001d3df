"""The JSON Schema: it knows every key, accepts what we accept and refuses what it can."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from arena_ray.config import json_schema, load_plan
from arena_ray.specs import EvalJob, RunSettings
from tests.config.documents import document, job, refusal
from tests.config.test_plan import INTERFACE_EXAMPLE


def _validator() -> Any:
    return jsonschema.Draft202012Validator(json_schema())


def test_it_is_a_draft_2020_12_schema_in_strict_json() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(json_schema(), allow_nan=False)) == json_schema()


def test_every_property_is_there_and_has_its_docs() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {"jobs", "defaults", "run"}
    assert set(schema["$defs"]["EvalJob"]["properties"]) == set(EvalJob.model_fields)
    assert set(schema["$defs"]["RunSettings"]["properties"]) == set(RunSettings.model_fields)
    assert set(schema["properties"]["defaults"]["properties"]) == set(EvalJob.model_fields) - {"name"}
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name
        for key, value in definition["properties"].items():
            referred = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
            assert value.get("description") or referred.get("description"), f"{name}.{key}"


def test_docs_are_those_of_the_specs() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["EvalJob"]["properties"]["num_rebuilds"]["description"].startswith("Build the environment anew")
    assert definitions["VideoRecordingCfg"]["properties"]["record_viewport_video"]["description"] == (
        "Record what `env.render()` shows."
    )


NAMELESS = {key: value for key, value in job().items() if key != "name"}
GOOD = [
    pytest.param(yaml.safe_load(INTERFACE_EXAMPLE), id="interface example"),
    pytest.param(document(job()), id="small"),
    pytest.param(document(job(env={"entry_point": "a.b:c", "id": None}, num_steps=None)), id="nulls"),
    pytest.param(document({"name": "a"}, defaults=NAMELESS), id="all in defaults"),
    pytest.param(document(job(), run={"chunk_size": 3, "episode_timeout": 1.5, "inline": True}), id="run"),
    pytest.param(document(job(tags={"a": 1, "b": 0.5, "c": "x", "d": True}, metrics=["x"])), id="tags"),
]
BAD = [
    pytest.param(document(), id="no job"),
    pytest.param({}, id="no jobs"),
    pytest.param(document(job(), job=1), id="unknown section"),
    pytest.param(document(job(episodez=1)), id="unknown key"),
    pytest.param(document(job(num_steps=1)), id="two budgets"),
    pytest.param(document(job(env=...)), id="no env"),
    pytest.param(document(job(env={"id": "X-v0", "entry_point": "a:b"})), id="two envs"),
    pytest.param(document(job(policy={"type": "zero", "entry_point": "a:b"})), id="two policies"),
    pytest.param(document(job(policy={"type": "randm"})), id="policy type"),
    pytest.param(document(job(policy={"entry_point": "a.b"})), id="entry point"),
    pytest.param(document(job("a/b")), id="name"),
    pytest.param(document(job(num_episodes=0)), id="zero"),
    pytest.param(document(job(video={"video_base_dir": "x"})), id="video folder"),
    pytest.param(document(job(video={"record": True})), id="unknown video key"),
    pytest.param(document(job(metrics=[{"reduce": "sum"}])), id="metric without key"),
    pytest.param(document(job(), defaults={"name": "a"}), id="name in defaults"),
    pytest.param(document(job(), defaults={"num_env": 1}), id="unknown default"),
    pytest.param(document(job(), run={"chunk_sise": 1}), id="unknown setting"),
    pytest.param(document(job(), run={"chunk_size": "all"}), id="setting"),
]


@pytest.mark.parametrize("good", GOOD)
def test_it_accepts_what_we_accept(good: dict[str, Any]) -> None:
    assert load_plan(good).jobs
    _validator().validate(good)


@pytest.mark.parametrize("bad", BAD)
def test_it_refuses_what_we_refuse(bad: dict[str, Any]) -> None:
    assert refusal(bad)
    assert not _validator().is_valid(bad)


def test_it_accepts_the_resolved_document() -> None:
    _validator().validate(load_plan(yaml.safe_load(INTERFACE_EXAMPLE)).document)
