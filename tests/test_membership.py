"""Membership in virtual time: what is believed of whom, when, and what is done about it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.acquaintances import Dial, Exchange
from swarm.errors import BadInput
from swarm.membership import (
    BURIED_S,
    EXCHANGE_S,
    MAX_DIALS,
    MAX_LEADS,
    MAX_PEERS,
    SEED_S,
    STRANGER_S,
    VISIBLE_S,
    Entry,
    Membership,
)
from swarm.types import Address, PeerId, PeerProfile, PeerRecord, PeerState

ALIVE, SUSPECT, LEFT, DEAD = PeerState.ALIVE, PeerState.SUSPECT, PeerState.LEFT, PeerState.DEAD


def an_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def a_record(number: int, **changes: Any) -> PeerRecord:
    plain = PeerRecord(an_id(number), f"peer {number}", (Address(f"10.0.0.{number % 250 + 1}", 4747),), incarnation=10)
    return replace(plain, **changes)


def a_swarm(size: int = 3) -> Membership:
    """Peer 0, connected to peers 1 to size - 1 at time 0, with the first exchanges done."""
    membership = Membership(a_record(0))
    membership.merge([(a_record(i), ALIVE) for i in range(1, size)], 0.0)
    for i in range(1, size):
        membership.connected(an_id(i), 0.0)
    membership.tick(0.0)
    return membership


def states(membership: Membership) -> dict[int, PeerState]:
    return {int(p.record.id, 16): p.state for p in membership.view().peers}


def dials(membership: Membership, now: float) -> list[Dial]:
    return [action for action in membership.tick(now) if isinstance(action, Dial)]


def exchanges(membership: Membership, now: float) -> list[int]:
    return [int(action.peer_id, 16) for action in membership.tick(now) if isinstance(action, Exchange)]


def run_out(membership: Membership, start: float, end: float) -> list[tuple[float, Dial]]:
    """Let all dials fail at once, from `start` to `end`; what was dialled when."""
    dialled = []
    for tenth in range(round(start * 10), round(end * 10) + 1):
        for dial in dials(membership, tenth / 10):
            membership.failed(dial, tenth / 10)
            dialled.append((tenth / 10, dial))
    return dialled


def test_alone() -> None:
    membership = Membership(a_record(0))
    assert states(membership) == {0: ALIVE}
    assert membership.entries() == ((a_record(0), ALIVE),)
    assert membership.tick(0.0) == []


def test_the_view_is_sorted_and_the_same_object_until_something_changes() -> None:
    membership = a_swarm(4)
    view = membership.view()
    assert [p.record.id for p in view.peers] == [an_id(i) for i in range(4)]
    membership.tick(1.0)
    membership.merge([(a_record(1), ALIVE)], 1.0)
    assert membership.view() is view
    membership.merge([(a_record(1, version=1), ALIVE)], 1.0)
    assert membership.view() is not view


def test_a_peer_heard_of_is_dialled_at_its_addresses() -> None:
    membership = Membership(a_record(0))
    membership.merge([(a_record(1), ALIVE)], 0.0)
    assert dials(membership, 0.0) == [Dial(a_record(1).addresses, an_id(1))]
    assert dials(membership, 100.0) == [], "once at a time"


def test_new_connections_exchange_at_once_then_every_five_seconds() -> None:
    membership = Membership(a_record(0))
    membership.connected(an_id(1), 3.0)
    assert exchanges(membership, 3.0) == [1]
    assert states(membership) == {0: ALIVE}, "no record yet"
    membership.merge([(a_record(1), ALIVE)], 3.0)
    assert states(membership) == {0: ALIVE, 1: ALIVE}
    assert exchanges(membership, 3.0 + EXCHANGE_S - 0.1) == []
    assert exchanges(membership, 3.0 + EXCHANGE_S) == [1]


def test_own_changes_are_told_at_once_but_not_in_a_flood() -> None:
    membership = a_swarm()
    membership.update(1.0, holds=("a part",))
    assert membership.me.version == 1
    assert exchanges(membership, 1.0) == [1, 2]
    told = 0
    for hundredth in range(100, 200):
        membership.update(hundredth / 100, profile=PeerProfile(memory_free_bytes=hundredth))
        told += len(exchanges(membership, hundredth / 100)) // 2
    assert told <= 10


def test_an_update_that_changes_nothing_is_none() -> None:
    membership = a_swarm()
    membership.update(1.0, holds=())
    assert membership.me == a_record(0)
    with pytest.raises(TypeError, match="incarnation"):
        membership.update(1.0, incarnation=11)


def test_a_peer_that_others_would_not_take_in_hears_so() -> None:
    with pytest.raises(BadInput):
        Membership(a_record(0, name="bell\x07"))
    with pytest.raises(BadInput):
        a_swarm().update(1.0, holds=("x" * 1000,))


def test_a_broken_connection_is_suspect_at_once_and_dead_after_two_dials() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 1.0)
    assert states(membership)[1] is SUSPECT
    (first,) = dials(membership, 1.2)
    membership.failed(first, 1.2)
    assert states(membership)[1] is SUSPECT
    (second,) = dials(membership, 1.7)
    membership.failed(second, 1.7)
    assert states(membership)[1] is DEAD
    assert states(membership)[2] is ALIVE


def test_a_suspect_that_answers_is_alive() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 1.0)
    (dial,) = dials(membership, 1.2)
    membership.connected(an_id(1), 1.3, dial)
    assert states(membership)[1] is ALIVE
    assert exchanges(membership, 1.3) == [1]
    assert (a_record(1), SUSPECT) in membership.entries(), "it hears what was said of it, and can refute it"


def test_redials_back_off() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 0.0)
    assert [when for when, _ in run_out(membership, 0.0, 20.0)] == [0.2, 0.7, 1.7, 3.7, 8.7, 13.7, 18.7]


def test_the_dead_come_back() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 0.0)
    run_out(membership, 0.0, 5.0)
    assert states(membership)[1] is DEAD
    membership.connected(an_id(1), 6.0)
    assert states(membership)[1] is ALIVE
    membership.merge([(a_record(1, incarnation=11), ALIVE)], 6.0)
    membership.disconnected(an_id(1), 7.0)
    assert states(membership)[1] is SUSPECT


def test_goodbye_is_left_at_once_and_stands() -> None:
    membership = a_swarm()
    membership.said_goodbye(an_id(1), 1.0)
    assert states(membership)[1] is LEFT
    membership.disconnected(an_id(1), 1.1)
    membership.merge([(a_record(1, version=5), ALIVE), (a_record(1), DEAD)], 1.2)
    assert states(membership)[1] is LEFT
    assert run_out(membership, 1.0, 50.0) == [], "nobody runs after it"


def test_the_gone_stay_visible_for_a_minute_and_are_not_raised_by_late_gossip() -> None:
    membership = a_swarm()
    membership.said_goodbye(an_id(1), 1.0)
    membership.tick(1.0 + VISIBLE_S - 0.1)
    assert 1 in states(membership)
    membership.tick(1.0 + VISIBLE_S)
    assert 1 not in states(membership)
    assert all(record.id != an_id(1) for record, _ in membership.entries())
    membership.merge([(a_record(1, version=7), ALIVE)], 100.0)
    membership.tick(100.0)
    assert 1 not in states(membership)
    membership.merge([(a_record(1, incarnation=11), ALIVE)], 101.0)
    assert states(membership)[1] is ALIVE


def test_in_the_end_the_gone_are_forgotten() -> None:
    membership = a_swarm()
    membership.said_goodbye(an_id(1), 0.0)
    membership.tick(BURIED_S)
    assert an_id(1) not in membership._known


def test_claims_about_older_incarnations_are_ignored() -> None:
    membership = a_swarm(1)
    membership.merge([(a_record(1, incarnation=10), ALIVE), (a_record(1, incarnation=9, version=99), DEAD)], 0.0)
    assert states(membership)[1] is ALIVE
    assert membership.view().find(an_id(1)) == a_record(1)
    membership.merge([(a_record(1, incarnation=10), DEAD)], 0.0)
    assert states(membership)[1] is DEAD


def test_a_claim_never_overrules_a_connection() -> None:
    membership = a_swarm()
    for claim in (SUSPECT, DEAD):
        membership.merge([(a_record(1), claim)], 1.0)
        assert states(membership)[1] is ALIVE


def test_who_is_accused_refutes() -> None:
    membership = a_swarm()
    membership.merge([(a_record(0), DEAD)], 1.0)
    assert membership.me.incarnation == 11
    assert states(membership)[0] is ALIVE
    assert exchanges(membership, 1.0) == [1, 2]
    membership.merge([(a_record(0), DEAD), (a_record(0, incarnation=9), LEFT)], 1.5)
    assert membership.me.incarnation == 11, "old claims need no answer"


def test_who_restarted_overtakes_what_others_remember_of_it() -> None:
    membership = a_swarm()
    membership.merge([(a_record(0, incarnation=70, version=3), ALIVE)], 1.0)
    assert membership.me.incarnation == 71
    membership.merge([(a_record(0, incarnation=2**62, version=2**62), DEAD)], 1.0)
    assert membership.me.incarnation == 2**62, "no higher, and no crash"


def test_who_leaves_does_not_refute_it() -> None:
    membership = a_swarm()
    membership.leave(1.0)
    membership.merge([(membership.me, LEFT)], 1.1)
    assert membership.me == a_record(0)
    assert membership.entries()[0] == (a_record(0), LEFT)
    membership.disconnected(an_id(1), 1.2)
    assert run_out(membership, 1.0, 5.0) == []


def test_a_restarted_peer_is_the_same_peer() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 1.0)
    run_out(membership, 1.0, 3.0)
    assert states(membership)[1] is DEAD
    anew = a_record(1, incarnation=20, addresses=(Address("10.0.0.99", 1),))
    membership.connected(an_id(1), 4.0)
    membership.merge([(anew, ALIVE)], 4.0)
    assert states(membership) == {0: ALIVE, 1: ALIVE, 2: ALIVE}
    assert membership.view().find(an_id(1)) == anew


def test_a_peer_never_reached_is_suspect_here_and_accused_only_when_it_stays_away() -> None:
    """It may be alive and only out of this peer's sight."""
    membership = Membership(a_record(0))
    membership.merge([(a_record(1), ALIVE)], 0.0)
    run_out(membership, 0.0, 10.0)
    assert states(membership)[1] is SUSPECT
    assert (a_record(1), ALIVE) in membership.entries(), "others hear no word against it"
    run_out(membership, 10.1, STRANGER_S + 6)
    assert states(membership)[1] is DEAD


def test_a_peer_without_addresses_dies_like_others() -> None:
    membership = Membership(a_record(0))
    membership.connected(an_id(1), 0.0)
    membership.merge([(a_record(1, addresses=(), client=True), ALIVE)], 0.0)
    membership.disconnected(an_id(1), 1.0)
    dialled = run_out(membership, 1.0, 2.0)
    assert dialled[0] == (1.2, Dial((), an_id(1)))
    assert states(membership)[1] is DEAD


def test_an_introduction_is_tried_a_few_times() -> None:
    membership = Membership(a_record(0))
    place = (Address("10.0.0.9", 4747),)
    assert membership.introduce(place, 0.0, an_id(9))
    assert [when for when, _ in run_out(membership, 0.0, 60.0)] == [0.0, 0.2, 0.7, 1.7, 3.7]
    assert states(membership) == {0: ALIVE}


def test_an_introduction_ends_with_the_connection() -> None:
    membership = Membership(a_record(0))
    place = (Address("10.0.0.9", 4747),)
    membership.introduce(place, 0.0)
    (dial,) = dials(membership, 0.0)
    assert dial == Dial(place, None)
    membership.connected(an_id(9), 0.1, dial)
    assert run_out(membership, 0.1, 60.0) == []
    membership.introduce(place, 61.0, an_id(9))
    assert run_out(membership, 61.0, 62.0) == [], "known and connected"


def test_introductions_of_oneself_are_ignored() -> None:
    membership = Membership(a_record(0))
    membership.introduce((Address("10.0.0.1", 1),), 0.0, an_id(0))
    assert dials(membership, 0.0) == []
    membership.introduce((Address("10.0.0.1", 1),), 0.0, seed=True)
    (dial,) = dials(membership, 0.0)
    membership.connected(an_id(0), 0.0, dial)
    assert run_out(membership, 0.0, 60.0) == [], "a seed that is this peer itself"


def test_an_introduction_hurries_the_dial_of_a_known_peer() -> None:
    membership = a_swarm()
    membership.disconnected(an_id(1), 0.0)
    run_out(membership, 0.0, 9.0)
    membership.introduce(a_record(1).addresses, 9.5, an_id(1))
    assert dials(membership, 9.5) == [Dial(a_record(1).addresses, an_id(1))]


def test_who_left_comes_back_through_an_introduction() -> None:
    membership = a_swarm()
    membership.said_goodbye(an_id(1), 0.0)
    membership.disconnected(an_id(1), 0.0)
    membership.introduce(a_record(1).addresses, 1.0, an_id(1))
    (dial,) = dials(membership, 1.0)
    membership.connected(an_id(1), 1.1, dial)
    membership.merge([(a_record(1, incarnation=11), ALIVE)], 1.2)
    assert states(membership)[1] is ALIVE


def test_seeds_are_tried_for_ever_but_not_while_connected() -> None:
    membership = Membership(a_record(0))
    seed = (Address("10.0.0.9", 4747),)
    membership.introduce(seed, 0.0, seed=True)
    assert [when for when, _ in run_out(membership, 0.0, 100.0)] == [SEED_S * i for i in range(21)]
    (dial,) = dials(membership, 105.0)
    membership.connected(an_id(9), 105.0, dial)
    assert run_out(membership, 105.0, 200.0) == []
    membership.disconnected(an_id(9), 200.0)
    assert [when for when, _ in run_out(membership, 200.0, 211.0)] == [200.0, 205.0, 210.0]


def test_dials_are_few_at_once_and_the_dead_come_last() -> None:
    membership = Membership(a_record(0))
    membership.merge([(a_record(i), DEAD if i <= 40 else ALIVE) for i in range(1, 81)], 0.0)
    first = dials(membership, 0.0)
    assert [int(d.peer_id or "0", 16) for d in first] == list(range(41, 41 + MAX_DIALS))
    assert dials(membership, 1.0) == []
    for dial in first:
        membership.connected(dial.peer_id or PeerId(""), 1.0, dial)
    assert len(dials(membership, 1.1)) == MAX_DIALS


@pytest.mark.parametrize(
    "bad",
    [
        {"id": PeerId("somebody")},
        {"id": PeerId("a" * 33)},
        {"name": ""},
        {"name": "x" * 129},
        {"name": "\x1b[2J"},
        {"incarnation": -1},
        {"incarnation": 2**63},
        {"version": 2**63},
        {"addresses": (Address("10.0.0.1", 1),) * 17},
        {"addresses": (Address("h" * 5000, 1),)},
        {"addresses": (Address("10.0.0.1", 0),)},
        {"holds": ("part",) * 257},
        {"holds": ("x" * 5000,)},
        {"profile": PeerProfile(memory_free_bytes=-1)},
        {"profile": PeerProfile(device="")},
        {"profile": PeerProfile(flops_per_s={"float32": float("nan")})},
        {"profile": PeerProfile(flops_per_s={str(i): 1.0 for i in range(33)})},
    ],
)
def test_hostile_records_are_passed_over(bad: dict[str, Any]) -> None:
    membership = a_swarm()
    view = membership.view()
    membership.merge([(a_record(7, **bad), ALIVE), (a_record(8), ALIVE)], 1.0)
    assert set(states(membership)) == {0, 1, 2, 8}
    assert membership.view() is not view


def test_peers_and_leads_are_bounded() -> None:
    membership = a_swarm()
    membership.merge(((a_record(i), ALIVE) for i in range(3, 3000)), 1.0)
    assert len(membership.view().peers) == MAX_PEERS
    taken = [membership.introduce((Address("10.9.9.9", port),), 1.0) for port in range(1, 1000)]
    assert sum(taken) == MAX_LEADS


def test_one_who_is_really_connected_finds_room_among_rumours() -> None:
    membership = a_swarm()
    membership.merge(((a_record(i), ALIVE) for i in range(3, 3000)), 1.0)
    membership.connected(an_id(5000), 2.0)
    membership.merge([(a_record(5000), ALIVE)], 2.0)
    assert states(membership)[5000] is ALIVE
    assert {1, 2} <= states(membership).keys()
    assert len(membership.view().peers) == MAX_PEERS


entries = st.lists(
    st.builds(
        lambda number, incarnation, version, held, state: (
            a_record(number, incarnation=incarnation, version=version, holds=("a part",) * held),
            state,
        ),
        st.integers(1, 4),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 1),
        st.sampled_from(PeerState),
    ),
    max_size=20,
)


def merged(batches: Iterable[list[Entry]]) -> tuple[Entry, ...]:
    membership = Membership(a_record(0))
    for batch in batches:
        membership.merge(batch, 0.0)
    return membership.entries()


@given(entries, st.randoms(use_true_random=False))
def test_merging_is_commutative_associative_and_idempotent(batch: list[Entry], rng: random.Random) -> None:
    shuffled = [*batch, *batch]
    rng.shuffle(shuffled)
    assert merged([batch]) == merged([[entry] for entry in shuffled]) == merged([shuffled, batch])


@given(entries, entries)
def test_two_who_exchange_agree(mine: list[Entry], theirs: list[Entry]) -> None:
    one, other = Membership(a_record(100)), Membership(a_record(101))
    one.merge(mine, 0.0)
    other.merge(theirs, 0.0)
    asked = one.entries()
    other.merge(asked, 0.0)
    one.merge(other.entries(), 0.0)
    assert sorted(one.entries(), key=repr) == sorted(other.entries(), key=repr)


@given(entries)
def test_a_living_peer_that_refutes_is_never_accused_again(claims: list[Entry]) -> None:
    """Whatever was said of it, one exchange with it and one with the accuser settle it for this incarnation."""
    living, accuser = Membership(a_record(1, incarnation=2)), Membership(a_record(0))
    accuser.merge(claims, 0.0)
    living.merge(accuser.entries(), 0.0)
    accuser.merge(living.entries(), 0.0)
    assert states(accuser)[1] is ALIVE
    accuser.merge(claims, 0.0)
    assert states(accuser)[1] is ALIVE


events = st.lists(
    st.tuples(
        st.sampled_from(["merge", "connect", "break", "goodbye", "introduce", "tick", "update"]),
        st.integers(0, 5),
        st.integers(0, 2),
        st.sampled_from(PeerState),
        st.floats(0, 40),
    ),
    max_size=60,
)


@given(events)
def test_whatever_happens_it_stays_sane(happened: list[tuple[str, int, int, PeerState, float]]) -> None:
    """This peer never believes its own death, nobody connected is called dead, and every dial is answered for."""
    membership, now, connected = Membership(a_record(0)), 0.0, set[int]()
    for what, number, incarnation, state, pause in happened:
        now += pause
        match what:
            case "merge":
                membership.merge([(a_record(number, incarnation=incarnation + 10), state)], now)
            case "connect" if number:
                membership.connected(an_id(number), now)
                connected.add(number)
            case "break":
                membership.disconnected(an_id(number), now)
                connected.discard(number)
            case "goodbye" if number:
                membership.said_goodbye(an_id(number), now)
            case "introduce":
                membership.introduce((Address("10.0.0.1", number + 1),), now, an_id(number))
            case "update":
                membership.update(now, holds=(str(now),))
            case _:
                for dial in dials(membership, now):
                    assert dial.peer_id not in {an_id(i) for i in connected}
                    membership.failed(dial, now)
        seen = states(membership)
        assert seen[0] is ALIVE
        assert all(seen.get(i, ALIVE) in (ALIVE, LEFT) for i in connected)
    assert sum(k.dial is not None for k in membership._known.values()) == 0
