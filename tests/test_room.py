from __future__ import annotations

from typing import Any

from arena_ray.pools.room import Node, Room, demand_table
from arena_ray.specs import EvalJob, Resources
from tests.worlds import walk_job


def node(name: str, num_cpus: float, num_gpus: float = 0, **labels: str) -> Node:
    return Node(name, num_cpus, num_gpus, 16.0, f"10.0.0.{name}", labels)


def asks(**wanted: Any) -> Resources:
    return Resources(**wanted)


def test_room_is_counted_on_each_node() -> None:
    room = Room([node("1", 2), node("2", 2, 1)])
    assert room.how_many(asks()) == 4
    assert room.how_many(asks(num_gpus=0.5)) == 2
    assert not room.fits(asks(num_cpus=4))


def test_what_is_taken_is_gone_until_it_is_given_back() -> None:
    room = Room([node("1", 1), node("2", 1)])
    room.take(asks(), "2")
    room.take(asks(), None)
    assert not room.fits(asks())
    room.give(asks(), "1")
    assert room.fits(asks())
    room.take(asks(), "1")
    assert not room.fits(asks())


def test_labels_decide_where_there_is_room() -> None:
    room = Room([node("1", 8, zone="eu"), node("2", 1, zone="us"), node("3", 4)])
    assert room.how_many(asks(label_selector={"zone": "us"})) == 1
    assert room.how_many(asks(label_selector={"zone": "!us"})) == 12
    room.take(asks(label_selector={"zone": "us"}), None)
    assert not room.fits(asks(label_selector={"zone": "us"}))
    assert room.fits(asks())


def test_demand_and_supply_are_shown_with_labels() -> None:
    job = EvalJob.model_validate(walk_job(resources={"num_gpus": 1, "accelerator_type": "H100"}))
    kinds = {"ray.io/accelerator-type": "A100", "ray.io/node-id": "0123", "zone": "eu"}
    text = demand_table([job], [Node("1", 8, 1, 16.0, "10.0.0.1", kinds)])
    assert "ray.io/accelerator-type=H100" in text
    assert "ray.io/accelerator-type=A100, zone=eu" in text
    assert "node-id" not in text
