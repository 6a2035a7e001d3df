"""Files: which parser reads them, and what is said of files that cannot be read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from arena_ray.config import load_plan
from tests.config.documents import document, job, lines, only_job, refusal

ONE = "name: a, env: {id: X-v0}, policy: {type: zero}"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["jobs.json", "jobs.JSON", "jobs.txt", "jobs", "jobs.yaml"])
def test_json_is_read_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, json.dumps(document(job())))
    assert only_job(path) == only_job(document(job()))


@pytest.mark.parametrize("name", ["jobs.yaml", "jobs.yml", "jobs.YML", "jobs.conf", "jobs"])
def test_yaml_is_read_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, f"jobs:\n- {{{ONE}, num_episodes: 2}}\n")
    assert only_job(str(path)).num_episodes == 2


def test_numbers_of_json_are_those_of_json_without_the_extension_too(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e0 as text.
    text = json.dumps(document(job(resources={"num_gpus": 0}))).replace('"num_gpus": 0', '"num_gpus": 1e0')
    assert only_job(_file(tmp_path, "jobs.txt", text)).resources.num_gpus == 1.0


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(document(job())), encoding="utf-8-sig")
    assert only_job(path).name == "a"


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    text = f"""
jobs:
- {{{ONE}, num_episodes: 1, tags: &deep {{<<: &x {{k: 1, l: 2}}, k: 3}}}}
- <<: {{{ONE}}}
  name: b
  num_episodes: 2
  tags: {{<<: *deep, l: 4}}
- {{{ONE.replace("a,", "c,", 1)}, num_episodes: 1, tags: *deep}}
"""
    path = _file(tmp_path, "jobs.yaml", text)
    assert [found.tags for found in load_plan(path).jobs] == [{"k": 3, "l": 2}, {"k": 3, "l": 4}, {"k": 3, "l": 2}]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("j.yaml", "", "the file is empty; write 'jobs:' and a list of jobs", id="empty"),
        pytest.param("j.json", " \n", "the file is empty; write 'jobs:' and a list of jobs", id="blank"),
        pytest.param("j.yaml", "# nothing", "found None; must be a mapping with the key 'jobs'", id="comment"),
        pytest.param("j.yaml", "- a", "found ['a']; must be a mapping with the key 'jobs'", id="list"),
        pytest.param("j.json", "[1]", "found [1]; must be a mapping with the key 'jobs'", id="json list"),
        pytest.param(
            "j.yaml",
            "jobs:\n  - name: a\n   env: x",
            "line 3, column 4: not readable as YAML: while parsing a block collection, expected <block end>, but found "
            "'<block mapping start>'",
            id="yaml syntax",
        ),
        pytest.param(
            "j.json",
            '{"jobs": [\n  {"name": }]}',
            "line 2, column 12: not readable as JSON: Expecting value",
            id="json syntax",
        ),
        pytest.param(
            "j.yaml",
            "jobs:\n- name: a\n  env: {}\n  name: b",
            "line 4, column 3: not readable as YAML: the key 'name' is given twice, first in line 2; keep one",
            id="yaml key twice",
        ),
        pytest.param(
            "j.json",
            '{"jobs": [{"name": "a", "name": "b"}]}',
            "the key 'name' is given twice in one mapping; keep one",
            id="json key twice",
        ),
        pytest.param(
            "j.yaml", "a: 1\n---\nb: 2", "line 2, column 1: not readable as YAML: expected a single", id="two"
        ),
        pytest.param(
            "j.yaml",
            "jobs: !!python/object/apply:os.system ['true']",
            "line 1, column 7: not readable as YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'",
            id="python tag",
        ),
        pytest.param("j.yaml", "jobs: 2026-13-45", "not readable as YAML: ValueError: month must be", id="bad date"),
        pytest.param("j.yaml", "jobs: !!bool maybe", "not readable as YAML: KeyError: 'maybe'", id="bad tag"),
        pytest.param("j.yaml", "jobs: \x07", "not readable as YAML: unacceptable character", id="control character"),
        pytest.param("j.json", "[" * 100_000, "not readable as JSON: ", id="json nesting"),
        pytest.param("j.yaml", "[" * 5_000, "not readable as YAML: RecursionError", id="yaml nesting"),
        pytest.param("j.py", "import os\nprint(os)", "found 'import os print(os)'; must be a mapping", id="python"),
    ],
)
def test_unreadable_text_says_where_and_why(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = _file(tmp_path, name, text)
    assert refusal(path).startswith(f"{path}: {expected}")


def test_problems_in_a_file_start_with_its_path(tmp_path: Path) -> None:
    path = _file(tmp_path, "j.yaml", f"jobs: [{{{ONE}}}]")
    text = refusal(path)
    assert text.startswith(f"{path}: 1 problem\n")
    assert lines(text) == ["job 'a': give exactly one of 'num_episodes' and 'num_steps'; found neither"]


def test_number_that_is_none_is_refused_in_json_too(tmp_path: Path) -> None:
    path = _file(tmp_path, "j.json", json.dumps(document(job(video={"fps": float("nan")}))))
    assert lines(refusal(path)) == [
        "job 'a': video.fps: found nan; must be a finite number; JSON has no NaN and no infinity"
    ]


def test_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "j.pkl"
    path.write_bytes(pickle.dumps(document(job())))
    assert refusal(path) == f"{path}: not a text file in UTF-8 (invalid start byte at byte 0)"


def test_missing_file_names_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("jobs.yaml") == f"jobs.yaml: no such file; the current folder is {tmp_path}"


def test_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: this is a folder; name the job file in it (.yaml or .json)"


@pytest.mark.parametrize("path", [pytest.param("a\0b", id="null byte"), pytest.param("x" * 5000, id="too long")])
def test_impossible_paths_are_refused(path: str) -> None:
    assert refusal(path).startswith(f"{path!r}: cannot be read: ")
