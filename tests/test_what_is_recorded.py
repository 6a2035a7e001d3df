"""What `video` of a job asks for is on the disk and in the records, the same for any number of workers and slots.

One run per layout holds a job per setting; what to expect comes from a run without video.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from arena_ray import RunResult, evaluate
from arena_ray.records import EpisodeRecord
from arena_ray.video.selection import RecordSelection
from tests.comparing import decode, shown_steps, substance
from tests.local_cluster import LocalCluster
from tests.worlds import Walk, walk_job

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NUM_EPISODES = 10
MAX_LENGTH = 11
VIEWPORT = {"record_viewport_video": True, "encoder": "inline"}


class Touch(Walk):
    """Touches the goal in the first step of every episode whose length is even, and at no other time.

    What Walk says of success is the opposite at the end of an episode.
    """

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "touched": self._t == 1 and self._length % 2 == 0}


class Textured(Walk):
    """Its picture is worth compressing."""

    def _frame(self) -> npt.NDArray[np.uint8]:
        rows, columns = np.mgrid[0:96, 0:128]
        waves = 128 + 60 * np.sin((rows + 3 * self._t) / 5) + 60 * np.cos((columns - 2 * self._t) / 7)
        return np.repeat(waves.astype(np.uint8)[:, :, None], 3, axis=2)


def make_job(name: str, video: dict[str, Any], env: str = "tests.worlds:Walk", **changes: Any) -> dict[str, Any]:
    kwargs = {"max_length": MAX_LENGTH, **changes.pop("env_kwargs", {})}
    job = walk_job(name, env_kwargs=kwargs, num_episodes=NUM_EPISODES, video=video, **changes)
    job["env"]["entry_point"] = env
    return job


#: Which episodes are kept, by their record.
SELECTIONS: dict[str, Callable[[EpisodeRecord], bool]] = {
    "all": lambda record: True,
    "none": lambda record: False,
    "failures": lambda record: record.success is False,
    "successes": lambda record: record.success is True,
    "first:1": lambda record: record.episode == 0,
    "first:3": lambda record: record.episode < 3,
    "first:99": lambda record: True,
    "every:1": lambda record: True,
    "every:3": lambda record: record.episode in (0, 3, 6, 9),
    "sample:0.5": lambda record: RecordSelection("sample:0.5").wants(record.episode),
    "sample:1": lambda record: True,
}


def job_name(record: str) -> str:
    return record.replace(":", "-")


TOUCHED = {"key": "touched", "when": "any"}
POISON = [2, 4]
POISONED = {"poison": POISON, "poison_step": 2}
TOUCH, TEXTURED = "tests.test_what_is_recorded:Touch", "tests.test_what_is_recorded:Textured"

JOBS = [
    *(make_job(job_name(record), {**VIEWPORT, "record": record}) for record in SELECTIONS),
    make_job("length-3", {**VIEWPORT, "video_length": 3}),
    make_job("length-3-failures", {**VIEWPORT, "video_length": 3, "record": "failures"}),
    make_job("names", {**VIEWPORT, "outcome_in_name": True}),
    make_job("names-of-failures", {**VIEWPORT, "outcome_in_name": True, "record": "failures"}),
    make_job(
        "cameras",
        {**VIEWPORT, "record_camera_video": True, "cameras": ["wrist"], "record": "every:3"},
        env_kwargs={"cameras": ["front", "wrist"]},
    ),
    make_job("small-picture", {**VIEWPORT, "max_resolution": 24}),
    make_job("overlay", {**VIEWPORT, "overlay": True}),
    make_job("preset-fast", VIEWPORT, TEXTURED),
    make_job("preset-small", {**VIEWPORT, "preset": "small"}, TEXTURED),
    make_job("encoder-process", {**VIEWPORT, "encoder": "process"}, TEXTURED),
    make_job("encoder-auto", {"record_viewport_video": True}, TEXTURED),
    make_job("encoder-of-each-child", {**VIEWPORT, "encoder": "process"}, TEXTURED, vectorization="async"),
    make_job("touched-failures", {**VIEWPORT, "record": "failures"}, TOUCH, success=TOUCHED),
    make_job("touched-successes", {**VIEWPORT, "record": "successes"}, TOUCH, success=TOUCHED),
    make_job("touched-at-the-end", {**VIEWPORT, "record": "successes"}, TOUCH, success={"key": "touched"}),
    make_job("untold", {**VIEWPORT, "outcome_in_name": True}, success={"key": "nowhere"}),
    make_job("untold-failures", {**VIEWPORT, "record": "failures"}, success={"key": "nowhere"}),
    *(
        make_job(
            f"poisoned-{job_name(record)}", {**VIEWPORT, "record": record, "outcome_in_name": True}, env_kwargs=POISONED
        )
        for record in ("all", "failures", "successes", "first:3")
    ),
    *(
        make_job(
            f"choked-{record}",
            {**VIEWPORT, "record": record},
            policy={"entry_point": "tests.worlds:Choker", "kwargs": {"poison": POISON}},
        )
        for record in ("failures", "successes")
    ),
]

LAYOUTS = [
    pytest.param(({"num_envs": 1}, {"inline": True, "chunk_size": 1}), id="one-slot-chunks-of-1"),
    pytest.param(({"num_envs": 3}, {"inline": True, "chunk_size": 4}), id="three-slots-chunks-of-4"),
    pytest.param(
        ({"num_envs": 3}, {"num_workers": 2, "chunk_size": 4, "isolation": "run"}),
        marks=pytest.mark.ray,
        id="two-workers",
    ),
]


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The same jobs without any video."""
    jobs = [{**job, "video": {}} for job in JOBS]
    return evaluate(
        {"jobs": jobs}, inline=True, continue_on_error=True, video_base_dir=str(tmp_path_factory.mktemp("unrecorded"))
    )


@pytest.fixture(scope="module", params=LAYOUTS)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    changes, flags = request.param
    if not flags.get("inline"):
        request.getfixturevalue("local_cluster").connect()
    jobs = [{**job, **changes} for job in JOBS]
    folder = tmp_path_factory.mktemp("recorded")
    return evaluate({"jobs": jobs}, continue_on_error=True, video_base_dir=str(folder), **flags)


def test_there_is_something_to_choose_from(unrecorded: RunResult) -> None:
    """Else the tests below could not fail."""
    records = unrecorded.jobs["all"].episodes
    assert sum(record.success is True for record in records) >= 3
    assert sum(record.success is False for record in records) >= 3
    assert all(record.length is not None and record.length >= 2 for record in records if record.episode in POISON)
    assert {record.success for record in records if record.episode in POISON} == {True, False}
    assert 2 <= sum(SELECTIONS["sample:0.5"](record) for record in records) <= 8
    lengths = [record.length for record in records if record.length is not None]
    assert min(lengths) < 3 < max(lengths)


def test_video_changes_no_record(result: RunResult, unrecorded: RunResult) -> None:
    assert [substance(record) for record in result.records()] == [substance(record) for record in unrecorded.records()]


def assert_agreement(result: RunResult, job: str) -> None:
    """Nothing that no record names is on the disk, hidden files and partial ones included."""
    records = result.jobs[job].episodes
    assert [record.episode for record in records] == list(range(NUM_EPISODES))
    videos = [video for record in records for video in record.videos]
    in_records = [result.run_dir / video.path for video in videos]
    folder = result.run_dir / job
    on_disk = {path for path in folder.rglob("*") if path.is_file() and path.parent != folder / "logs"}
    assert len(set(in_records)) == len(in_records)
    assert on_disk == set(in_records)
    assert result.video_paths(job=job) == in_records
    for video, path in zip(videos, in_records, strict=True):
        assert (path.stat().st_size, len(decode(path))) == (video.bytes, video.frames)


@pytest.mark.parametrize("job", [job["name"] for job in JOBS], ids=str)
def test_disk_records_and_paths_agree(result: RunResult, job: str) -> None:
    assert_agreement(result, job)


def test_the_summary_and_the_loaded_run_agree_too(result: RunResult) -> None:
    loaded = RunResult.load(result.run_dir)
    summary = json.loads((result.run_dir / "summary.json").read_text())["jobs"]
    for job in (job["name"] for job in JOBS):
        assert loaded.video_paths(job=job) == result.video_paths(job=job)
        assert [result.run_dir / path for path in summary[job]["videos"]] == result.video_paths(job=job)


Kept: TypeAlias = dict[int, list[tuple[str, int, bool]]]


def kept(result: RunResult, job: str) -> Kept:
    """The name without its slot, the frames, and whether it is partial: of each video, by episode."""
    return {
        record.episode: [
            (Path(video.path).name.replace(f"-env{record.slot}-", "-"), video.frames, video.partial)
            for video in record.videos
        ]
        for record in result.jobs[job].episodes
    }


def expect(
    told: RunResult,
    job: str,
    selects: Callable[[EpisodeRecord], bool] = lambda record: True,
    ending: Callable[[EpisodeRecord], str] = lambda record: "",
    limit: int | None = None,
) -> Kept:
    """What `kept` should be, as the records of `told` have it; broken episodes aside."""
    expected: Kept = {}
    for record in told.jobs[job].episodes:
        assert record.length is not None
        frames = min(record.length, limit or record.length) + 1
        video = (f"viewport-episode-{record.episode}{ending(record)}.mp4", frames, frames <= record.length)
        expected[record.episode] = [video] if selects(record) else []
    return expected


@pytest.mark.parametrize("record", SELECTIONS, ids=str)
def test_the_episodes_that_are_recorded(result: RunResult, unrecorded: RunResult, record: str) -> None:
    job = job_name(record)
    assert kept(result, job) == expect(unrecorded, job, SELECTIONS[record])


def test_the_videos_show_their_own_episode_from_beginning_to_end(result: RunResult) -> None:
    for job in ("all", "failures", "sample-0.5", "length-3"):
        for path in result.video_paths(job=job):
            frames = decode(path)
            assert shown_steps(frames) == list(range(len(frames)))


@pytest.mark.parametrize("success", [True, False], ids=["successes", "failures"])
def test_paths_by_success(result: RunResult, success: bool) -> None:
    word, other = ("successes", "failures") if success else ("failures", "successes")
    assert result.video_paths(job=word, success=success) == result.video_paths(job=word) != []
    assert result.video_paths(job=other, success=success) == []


def test_a_length_ends_the_video_and_not_the_episode(result: RunResult, unrecorded: RunResult) -> None:
    assert kept(result, "length-3") == expect(unrecorded, "length-3", limit=3)
    failures = expect(unrecorded, "length-3-failures", SELECTIONS["failures"], limit=3)
    assert kept(result, "length-3-failures") == failures


def outcome_ending(record: EpisodeRecord) -> str:
    return {True: "-success", False: "-failure", None: ""}[record.success]


def test_names_tell_the_outcome(result: RunResult, unrecorded: RunResult) -> None:
    assert kept(result, "names") == expect(unrecorded, "names", ending=outcome_ending)
    failures = expect(unrecorded, "names-of-failures", SELECTIONS["failures"], outcome_ending)
    assert kept(result, "names-of-failures") == failures
    assert {name[-12:] for videos in failures.values() for name, _, _ in videos} == {"-failure.mp4"}


def test_what_is_not_known_is_neither(result: RunResult, unrecorded: RunResult) -> None:
    assert kept(result, "untold") == expect(unrecorded, "untold")
    assert {record.success for record in result.jobs["untold"].episodes} == {None}
    assert result.video_paths(job="untold-failures") == []


def test_the_jobs_own_success_decides(result: RunResult, unrecorded: RunResult) -> None:
    touched = {record.episode for record in unrecorded.jobs["touched-failures"].episodes if record.success}
    even = {record.episode for record in unrecorded.jobs["all"].episodes if (record.length or 0) % 2 == 0}
    assert touched == even
    failures = expect(unrecorded, "touched-failures", lambda record: record.episode not in even)
    assert kept(result, "touched-failures") == failures
    successes = expect(unrecorded, "touched-successes", lambda record: record.episode in even)
    assert kept(result, "touched-successes") == successes
    assert result.video_paths(job="touched-at-the-end") == []


def test_only_the_cameras_that_are_named(result: RunResult) -> None:
    for record in result.jobs["cameras"].episodes:
        found = [(video.kind, video.camera, Path(video.path).name) for video in record.videos]
        stem = f"env{record.slot}"
        expected = [
            ("viewport", None, f"viewport-{stem}-episode-{record.episode}.mp4"),
            ("camera", "wrist", f"robot-cam-{stem}-wrist-episode-{record.episode}.mp4"),
        ]
        assert found == (expected if record.episode % 3 == 0 else [])
        assert {video.frames for video in record.videos} <= {(record.length or 0) + 1}
    assert len(result.video_paths(job="cameras", camera="wrist")) == 4
    assert result.video_paths(job="cameras", camera="front") == []


def frames_by_episode(result: RunResult, job: str) -> list[npt.NDArray[np.uint8]]:
    return [decode(result.run_dir / record.videos[0].path) for record in result.jobs[job].episodes]


def test_large_pictures_are_scaled_down(result: RunResult) -> None:
    for frames in frames_by_episode(result, "small-picture"):
        assert frames.shape[1:] == (16, 24, 3)
        assert shown_steps(frames) == list(range(len(frames)))


def test_the_overlay_is_in_the_picture(result: RunResult) -> None:
    assert kept(result, "overlay") == kept(result, "all")
    for overlaid, plain in zip(frames_by_episode(result, "overlay"), frames_by_episode(result, "all"), strict=True):
        difference = np.abs(overlaid.astype(int) - plain)
        assert (difference[:, :22].max(axis=(1, 2, 3)) > 60).all()
        assert difference[:, 28:].max() < 10


PRESETS = ("preset-fast", "preset-small")


def test_small_files_are_smaller(result: RunResult) -> None:
    fast, small = (sum(path.stat().st_size for path in result.video_paths(job=job)) for job in PRESETS)
    assert small < 0.8 * fast
    for one, other in zip(*(frames_by_episode(result, job) for job in PRESETS), strict=True):
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).mean() < 6


@pytest.mark.parametrize("job", ["encoder-process", "encoder-auto", "encoder-of-each-child"], ids=str)
def test_where_it_is_encoded_does_not_show(result: RunResult, job: str) -> None:
    assert kept(result, job) == kept(result, "preset-fast")
    for one, other in zip(frames_by_episode(result, job), frames_by_episode(result, "preset-fast"), strict=True):
        assert np.array_equal(one, other)


def broken(record: EpisodeRecord) -> list[tuple[str, int, bool]]:
    """The video of an episode that raised in its second step, or before its first."""
    assert record.length is not None
    return [(f"viewport-episode-{record.episode}.1.partial.mp4", record.length + 1, True)]


@pytest.mark.parametrize(
    ("job", "word", "ending"),
    [
        pytest.param("poisoned-all", "all", outcome_ending, id="environment-all"),
        pytest.param("poisoned-failures", "failures", outcome_ending, id="environment-failures"),
        pytest.param("poisoned-successes", "successes", outcome_ending, id="environment-successes"),
        pytest.param("poisoned-first-3", "first:3", outcome_ending, id="environment-first"),
        pytest.param("choked-failures", "failures", lambda record: "", id="policy-failures"),
        pytest.param("choked-successes", "successes", lambda record: "", id="policy-successes"),
    ],
)
def test_an_episode_that_breaks_is_no_success(
    result: RunResult, unrecorded: RunResult, job: str, word: str, ending: Callable[[EpisodeRecord], str]
) -> None:
    """Its partial video is kept, and its record says so, unless only successes are wanted."""
    expected = expect(unrecorded, job, SELECTIONS[word], ending)
    for record in unrecorded.jobs[job].episodes:
        if record.episode in POISON:
            assert (record.status, record.success) == ("error", None)
            kept_at_all = word in ("all", "failures") or (word == "first:3" and record.episode < 3)
            expected[record.episode] = broken(record) if kept_at_all else []
    assert [record.episode for record in result.jobs[job].episodes if record.status == "error"] == POISON
    assert kept(result, job) == expected
    for path in result.video_paths(job=job):
        frames = decode(path)
        assert shown_steps(frames) == list(range(len(frames)))


NATIVE = "tests.worlds:make_vector_walk"


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        pytest.param("tests.worlds:Walk", {"num_envs": 3, "vectorization": "async"}, id="child-processes"),
        pytest.param(NATIVE, {"env_kwargs": {"mode": "SameStep", "render_mode": "rgb_array"}}, id="native-same-step"),
        pytest.param(NATIVE, {"env_kwargs": {"mode": "NextStep", "render_mode": "rgb_array"}}, id="native-next-step"),
        pytest.param(NATIVE, {"env_kwargs": {"mode": "Disabled", "render_mode": "rgb_array"}}, id="native-disabled"),
    ],
)
def test_other_kinds_of_slots(tmp_path: Path, env: str, changes: dict[str, Any]) -> None:
    words = ("failures", "successes", "every:3")
    video = {**VIEWPORT, "video_length": 3, "outcome_in_name": True}
    jobs = [make_job(job_name(word), {**video, "record": word}, env, **changes) for word in words]
    result = evaluate({"jobs": jobs}, inline=True, chunk_size=4, video_base_dir=str(tmp_path))
    assert result.status == "completed"
    for word in words:
        job = job_name(word)
        expected = expect(result, job, SELECTIONS[word], outcome_ending, limit=3)
        assert {bool(videos) for videos in expected.values()} == {True, False}
        assert kept(result, job) == expected
        assert_agreement(result, job)


WORDS = ("all", "failures", "successes")


@pytest.fixture(scope="module")
def after_deaths(local_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """In each job the worker dies once, in the second step of an episode; there is one that will succeed, one not."""
    local_cluster.connect()
    folder = tmp_path_factory.mktemp("deaths")
    jobs = []
    for word in WORDS:
        for episode in POISON:
            marker = folder / f"{word}-{episode}"
            marker.mkdir()
            kill = {"poison": [episode], "poison_step": 2, "deed": "kill", "marker": str(marker)}
            video = {**VIEWPORT, "record": word, "outcome_in_name": True}
            jobs.append(make_job(f"{word}-{episode}", video, env_kwargs=kill))
    flags: dict[str, Any] = {"num_workers": 1, "chunk_size": NUM_EPISODES, "isolation": "run"}
    return evaluate({"jobs": jobs}, video_base_dir=str(folder / "runs"), **flags)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("word", "episode"),
    [
        pytest.param("all", 2, id="all-success"),
        pytest.param("all", 4, id="all-failure"),
        pytest.param("failures", 2, id="failures-success"),
        pytest.param("failures", 4, id="failures-failure"),
        pytest.param("successes", 2, id="successes-success"),
        pytest.param("successes", 4, id="successes-failure"),
    ],
)
def test_what_a_dead_worker_left_gives_way_to_the_next_attempt(
    after_deaths: RunResult, unrecorded: RunResult, word: str, episode: int
) -> None:
    job = f"{word}-{episode}"
    assert after_deaths.jobs[job].episodes[episode].attempt == 2
    assert kept(after_deaths, job) == expect(unrecorded, "all", SELECTIONS[word], outcome_ending)
    assert_agreement(after_deaths, job)
