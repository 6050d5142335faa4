"""What went wrong of late corrects the view, for a while, and longer each time."""

from __future__ import annotations

from swarm.doubts import FIRST_S, LONGEST_S, Doubts
from swarm.types import Link, PeerId, PeerProfile, PeerRecord, PeerState, PeerView, View

ANT, BEE, ME = PeerId("ant"), PeerId("bee"), PeerId("me")


def view() -> View:
    links = {BEE: Link(0.001, 1e6)}
    profile = PeerProfile(flops_per_s={"float32": 1e9}, links=links)
    records = [PeerRecord(peer, peer, (), 1, profile=profile) for peer in (ANT, BEE, ME)]
    return View(ME, tuple(PeerView(r, PeerState.ALIVE) for r in records), {ANT: (1.0, 2.0), BEE: (1.0, 2.0)})


def here(seen: View) -> list[str]:
    return [p.record.id for p in seen.peers]


def test_who_was_lost_is_left_out_for_a_while_and_longer_the_next_time() -> None:
    doubts = Doubts()
    for moment in (100.0, 100.1, 100.2):  # several requests saw the same
        doubts.lost(ANT, moment)
    assert here(doubts.applied(view(), 100.0 + FIRST_S - 0.1)) == [BEE, ME]
    assert here(doubts.applied(view(), 100.0 + FIRST_S + 0.1)) == [ANT, BEE, ME]
    doubts.lost(ANT, 110.0)
    assert here(doubts.applied(view(), 110.0 + 2 * FIRST_S - 0.1)) == [BEE, ME]
    later = 110.0 + 2 * FIRST_S + LONGEST_S + 1
    doubts.lost(ANT, later)
    assert here(doubts.applied(view(), later + FIRST_S + 0.1)) == [ANT, BEE, ME], "long ago counts no more"


def test_when_nothing_else_goes_the_lost_are_planned_with_again() -> None:
    doubts = Doubts()
    doubts.lost(ANT, 0.0)
    assert here(doubts.applied(view(), 1.0, wary=False)) == [ANT, BEE, ME]


def test_nobody_doubts_itself_away() -> None:
    doubts = Doubts()
    doubts.lost(ME, 0.0)
    assert ME in here(doubts.applied(view(), 1.0))


def test_a_slow_peer_is_slower_in_every_figure() -> None:
    doubts = Doubts()
    doubts.slow(ANT, 4.0, 0.0)
    seen = doubts.applied(view(), 1.0)
    record = seen.find(ANT)
    assert record is not None
    assert record.profile.flops_per_s == {"float32": 0.25e9}
    assert (seen.stage_s[ANT], seen.stage_s[BEE]) == ((4.0, 8.0), (1.0, 2.0))
    assert doubts.applied(view(), FIRST_S + 1).stage_s[ANT] == (1.0, 2.0)


def test_a_narrow_link_is_narrower_known_or_not() -> None:
    doubts = Doubts()
    doubts.narrow(ANT, BEE, 1e4, 0.0)
    doubts.narrow(BEE, ME, 5e3, 0.0)
    doubts.narrow(ME, BEE, 1e9, 0.0)
    seen = doubts.applied(view(), 1.0)
    ant, bee, me = (seen.find(peer) for peer in (ANT, BEE, ME))
    assert ant is not None
    assert bee is not None
    assert me is not None
    assert ant.profile.links[BEE] == Link(0.001, 1e4)
    assert bee.profile.links[ME].bytes_per_s == 5e3
    assert me.profile.links[BEE].bytes_per_s == 1e6, "evidence of at most more than that is none"
