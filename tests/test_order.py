"""What a session makes of the view: its own requests are no load to it, those of others are."""

from __future__ import annotations

import pytest

from swarm.order import Own, credited
from swarm.plan import Estimate, Part, Plan, Step
from swarm.types import PeerId, PeerLoad, PeerProfile, PeerRecord, PeerState, PeerView, View

HOST = PeerId("host")
PLAN = Plan("p", "slices", PeerId("me"), (Step("0", Part("toy", "d" * 64), (HOST,)),), ())


def seen(load: PeerLoad) -> View:
    record = PeerRecord(HOST, "host", (), 1, load=load, profile=PeerProfile(memory_free_bytes=100))
    return View(PeerId("me"), (PeerView(record, PeerState.ALIVE),))


def wait_s(load: PeerLoad, in_flight: int) -> float:
    found = credited(seen(load), Own((PLAN,), in_flight)).find(HOST)
    assert found is not None
    return found.load.wait_s


@pytest.mark.parametrize(("in_flight", "left"), [(0, 1.0), (1, 0.75), (4, 0.0), (9, 0.0)])
def test_the_share_of_a_wait_that_others_cause_stays(in_flight: int, left: float) -> None:
    assert wait_s(PeerLoad(wait_s=0.2, at_once=4.0), in_flight) == pytest.approx(0.2 * left)


def test_a_peer_that_is_not_used_keeps_its_load() -> None:
    view = seen(PeerLoad(wait_s=0.2, at_once=1.0))
    assert credited(view, Own((), 5)) is view


def test_memory_of_the_present_plan_can_be_used_by_the_next() -> None:
    plan = Plan("p", "slices", PeerId("me"), PLAN.steps, (), estimate=Estimate(peak_memory_bytes={HOST: 50}))
    found = credited(seen(PeerLoad()), Own((plan,), 0)).find(HOST)
    assert found is not None
    assert found.profile.memory_free_bytes == 150
