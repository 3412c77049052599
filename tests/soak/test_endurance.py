"""The soak in its short form: mixed traffic, faults of every kind, kills at every stage."""

import pytest
from benchmarks.loop import Loop
from benchmarks.soak.endurance import Scene, compared
from benchmarks.soak.faults import KINDS
from benchmarks.soak.kills import STAGES
from benchmarks.soak.promises import broken
from benchmarks.soak.traffic import WAYS


@pytest.fixture(scope="module")
def scene():
    """A scene that was played: what each server held before, and what after."""
    with Loop() as loop, Scene(loop, seed=1, every=50, kinds=["unix", "tls"]) as played:
        before = played.at_rest()
        played.run_rounds(4)
        yield played, before, played.at_rest(before)


def test_no_call_is_lost_or_wrong(scene):
    """Every path, with a client of each kind, is right to the bit while connections are hurt."""
    played, _, _ = scene
    figures = played.as_json()
    assert figures["lost"] == figures["wrong"] == figures["incidents"] == 0, figures["messages"]
    assert set(figures["calls"]) == {way.name for way in WAYS}
    assert figures["right"] + figures["told"] == 2 * 4 * sum(way.in_flight for way in WAYS)


def test_every_fault_and_kill_was_played(scene):
    """No kind of fault and no stage of a call was left out."""
    played, _, _ = scene
    assert all(played.as_json()["faults"][kind] for kind in KINDS)
    assert played.kills == dict.fromkeys(STAGES, 1)
    assert not [line for line in broken({"soak": played.as_json()}) if "memory" not in line]


def test_nothing_is_left_of_clients(scene):
    """Once they have gone, killed or closed, no region, mapping, descriptor or thread stays."""
    _, before, after = scene
    for each in compared(before, after).values():
        left = each["leaks"]
        left.pop("grpc_threads", None)  # gRPC's pool has its full size after the first calls alone
        assert left == {}
