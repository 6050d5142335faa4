"""What is believed of whom, and how long: the view, claims, dials, the gone, and bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.membership import MAX_PEERS, Dial, Membership
from swarm.membership.burial import BURIED_S, VISIBLE_S
from swarm.membership.core import BURIED_DIAL_S, GIVE_WAY_S, MESH
from swarm.membership.dialling import BACKOFF_S, LEAD_ATTEMPTS, MAX_DEAD_DIALS, MAX_DIALS, MAX_LEADS
from swarm.membership.messages import Changes, News, Sync, Tell
from swarm.membership.records import MAX_COUNT, weight_bytes
from swarm.types import Address, Door, Link, PeerId, PeerLoad, PeerProfile, PeerState
from tests.membership.company import ALIVE, DEAD, LEFT, SUSPECT, Company, a_record, all_of, an_id, says, sent, told


def dials(company: Company, seconds: float) -> list[tuple[float, Dial]]:
    began = company.now
    return [(round(t - began, 2), a) for t, a in company.run(seconds) if isinstance(a, Dial)]


# The view


def test_alone() -> None:
    company = Company(1)
    assert company.states() == {0: ALIVE}
    assert company.done == []


def test_the_view_is_sorted_and_the_same_object_until_something_changes() -> None:
    company = Company(4)
    view = company.it.view()
    assert [p.record.id for p in view.peers] == [an_id(i) for i in range(4)]
    company.run(1.0)
    company.tell(2, all_of(a_record(1)))
    assert company.it.view() is view
    company.tell(2, all_of(a_record(1, version=11, holds=("a part",))))
    assert company.it.view() is not view
    assert company.it.state(an_id(1)) is ALIVE
    assert company.it.state(an_id(9)) is None


def test_who_connects_hears_who_this_is_and_what_is_said_of_it() -> None:
    company = Company(3)
    company.tell(2, all_of(a_record(7), SUSPECT))
    company.it.connected(an_id(7), company.now)
    done = company.run(0.05)
    hello = sent(done, Tell, 7)[0]
    assert hello.news == (company.it._own.entry.news(0), says(7, SUSPECT))
    assert len(sent(done, Sync, 7)) == 1


def test_claims_of_older_incarnations_are_ignored() -> None:
    company = Company(3)
    company.tell(2, all_of(a_record(5, incarnation=10)), says(5, DEAD, 9), says(5, LEFT, 9))
    assert company.claims()[5] is ALIVE


def test_claims_outrank_one_another_by_incarnation_and_then_by_gravity() -> None:
    company = Company(3)
    company.tell(2, all_of(a_record(5)), says(5, SUSPECT))
    assert company.claims()[5] is SUSPECT
    company.tell(1, says(5, ALIVE))
    assert company.claims()[5] is SUSPECT
    company.tell(1, says(5, ALIVE, 11))
    assert company.claims()[5] is ALIVE
    company.tell(1, says(5, LEFT, 11), says(5, ALIVE, 11), says(5, DEAD, 11))
    assert company.claims()[5] is LEFT
    company.tell(1, says(5, ALIVE, 12))
    assert company.claims()[5] is ALIVE


def test_a_restarted_peer_is_the_same_peer() -> None:
    company = Company(3)
    company.living.discard(1)
    company.doors[1] = Door.SHUT
    company.it.disconnected(an_id(1), company.now)
    company.until(1, DEAD)
    anew = a_record(1, incarnation=20, version=20, addresses=(Address("10.0.0.99", 1),))
    company.it.connected(an_id(1), company.now)
    company.tell(1, all_of(anew))
    assert company.states() == {0: ALIVE, 1: ALIVE, 2: ALIVE}
    assert company.it.view().find(an_id(1)) == anew


def test_the_dead_that_speak_hear_what_is_said_of_them_until_they_refute_it() -> None:
    company = Company(4)
    company.living.discard(1)
    company.doors[1] = Door.SILENT
    company.until(1, DEAD)
    for _ in range(3):
        company.tell(1, all_of(a_record(1)))
        assert says(1, DEAD) in told(company.run(0.05), 1, to=1) + told(company.done, 1, to=1)
    company.tell(1, says(1, ALIVE, 11))
    assert company.states()[1] is ALIVE


# The gone


def test_goodbye_is_left_at_once_and_stands() -> None:
    company = Company(3)
    company.it.said_goodbye(an_id(1), company.now)
    assert company.states()[1] is LEFT
    company.it.disconnected(an_id(1), company.now)
    company.tell(2, says(1, ALIVE), says(1, DEAD))
    assert company.states()[1] is LEFT
    assert dials(company, 50.0) == [], "nobody runs after it"


def test_the_gone_stay_visible_for_a_minute_and_are_not_raised_by_late_gossip() -> None:
    company = Company(3)
    company.it.said_goodbye(an_id(1), company.now)
    company.it.disconnected(an_id(1), company.now)
    company.run(VISIBLE_S - 0.2)
    assert 1 in company.states()
    company.run(0.4)
    assert 1 not in company.states()
    company.tell(2, all_of(a_record(1, version=99)))
    assert 1 not in company.states()
    company.tell(2, all_of(a_record(1, incarnation=11, version=100)))
    assert company.states()[1] is ALIVE


def test_in_the_end_the_gone_are_forgotten() -> None:
    company = Company(3)
    company.it.said_goodbye(an_id(1), company.now)
    company.it.disconnected(an_id(1), company.now)
    company.run(BURIED_S + 0.2, step_s=0.1)
    assert company.it.state(an_id(1)) is None
    company.tell(2, says(1, DEAD))
    assert company.it.state(an_id(1)) is None, "the deaths of strangers are not kept"


# Dials


def test_a_peer_heard_of_is_dialled_at_its_addresses_and_the_smaller_id_goes_first() -> None:
    company = Company(2)
    company.dialled = lambda dial: True
    company.tell(1, all_of(a_record(5)))
    [(when, dial)] = dials(company, 10.0)
    assert dial == Dial(a_record(5).addresses, an_id(5))
    assert when <= 0.1
    other = Membership(a_record(9))
    other.connected(an_id(1), 0.0)
    other.received(an_id(1), Tell((all_of(a_record(5)),)), 0.0)
    assert not [a for a in other.tick(GIVE_WAY_S - 0.01) if isinstance(a, Dial)]


def test_redials_back_off() -> None:
    company = Company(3)
    company.run(6.0)
    company.it.disconnected(an_id(1), company.now)
    assert [when for when, _ in dials(company, 20.0)] == pytest.approx([0.2, 0.7, 1.7, 3.7, 8.7, 13.7, 18.7], abs=0.15)


def test_a_connection_that_keeps_breaking_is_made_again_ever_more_slowly() -> None:
    company = Company(3)
    pauses = []
    for _ in range(6):
        company.it.disconnected(an_id(1), company.now)
        company.dialled = lambda dial: True
        began = company.now
        while not (found := [a for _, a in company.run(0.05) if isinstance(a, Dial)]):
            pass
        pauses.append(company.now - began)
        company.it.connected(an_id(1), company.now, found[0])
    assert pauses == pytest.approx([*BACKOFF_S, BACKOFF_S[-1]], abs=0.1)


def test_a_peer_never_reached_is_suspect_here_while_others_vouch_for_it() -> None:
    company = Company(3)
    company.living.add(5)
    company.tell(2, all_of(a_record(5)))
    company.run(10.0)
    assert company.states()[5] is SUSPECT
    assert company.claims()[5] is ALIVE, "others hear no word against it"


def test_an_introduction_is_tried_a_few_times() -> None:
    company = Company(1)
    place = (Address("10.0.0.9", 4747),)
    assert company.it.introduce(place, company.now, an_id(9))
    assert len(dials(company, 60.0)) == LEAD_ATTEMPTS
    assert company.states() == {0: ALIVE}


def test_an_introduction_ends_with_the_connection() -> None:
    company = Company(1)
    company.dialled = lambda dial: True
    place = (Address("10.0.0.9", 4747),)
    company.it.introduce(place, company.now)
    [(_, dial)] = dials(company, 0.1)
    assert dial == Dial(place, None)
    company.it.connected(an_id(9), company.now, dial)
    assert dials(company, 60.0) == []


def test_introductions_of_oneself_are_ignored() -> None:
    company = Company(1)
    company.dialled = lambda dial: True
    company.it.introduce(a_record(0).addresses, company.now, an_id(0))
    company.it.introduce((Address("10.0.0.1", 1),), company.now, an_id(0))
    assert dials(company, 5.0) == []
    company.it.introduce((Address("10.0.0.7", 1),), company.now, seed=True)
    [(_, dial)] = dials(company, 0.1)
    company.it.connected(an_id(0), company.now, dial)
    assert dials(company, 60.0) == [], "a seed that is this peer itself"


def test_seeds_are_tried_for_ever_but_not_while_connected() -> None:
    company = Company(1)
    company.it.introduce((Address("10.0.0.9", 4747),), company.now, seed=True)
    assert 18 <= len(dials(company, 100.0)) <= 26
    company.dialled = lambda dial: True
    [(_, dial)] = dials(company, 5.5)
    company.it.connected(an_id(9), company.now, dial)
    assert dials(company, 100.0) == []
    company.dialled = lambda dial: False
    company.it.disconnected(an_id(9), company.now)
    assert len(dials(company, 10.0)) >= 3


def test_dials_are_few_at_once_and_the_dead_come_last() -> None:
    company = Company(2)
    company.dialled = lambda dial: True
    company.tell(1, *(all_of(a_record(i)) for i in range(10, 50)))
    for i in range(10, 20):
        company.it.said_goodbye(an_id(i), company.now)
        entry = company.it._table[an_id(i)]
        company.it._claim(entry, 11, ALIVE, company.now)
        company.it._claim(company.it._table[an_id(i)], 11, DEAD, company.now)
    first = [dial for _, dial in dials(company, 20.0)]
    assert len(first) == MAX_DIALS
    assert all(int(dial.peer_id or "", 16) >= 20 for dial in first)
    for dial in first:
        company.it.connected(dial.peer_id or PeerId(""), company.now, dial)
    assert len(dials(company, 1.0)) == 40 - 10 - MAX_DIALS
    assert MAX_DEAD_DIALS < MAX_DIALS


def test_the_hidden_dead_are_dialled_rarely() -> None:
    company = Company(3)
    company.living.discard(1)
    company.doors[1] = Door.SILENT
    company.it.disconnected(an_id(1), company.now)
    company.until(1, DEAD)
    company.run(VISIBLE_S + BURIED_DIAL_S, step_s=0.1)
    assert 3 <= len(dials(company, 4 * BURIED_DIAL_S)) <= 5


def test_no_more_connections_are_sought_than_a_mesh_takes() -> None:
    company = Company(2)
    company.dialled = lambda dial: True
    company.tell(1, *(all_of(a_record(i)) for i in range(2, 202)))
    while found := dials(company, 1.0):
        for _, dial in found:
            company.it.connected(dial.peer_id or PeerId(""), company.now, dial)
    assert len(company.it._contacts) == MESH


# Bounds


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "\x1b[2J"},
        {"incarnation": MAX_COUNT},
        {"version": MAX_COUNT},
        {"addresses": (Address("h" * 5000, 1),)},
        {"addresses": (Address("10.0.0.1", 0),)},
        {"holds": ("x" * 5000,)},
        {"holds": tuple(f"{i:03}" + "\u4e2d" * 120 for i in range(250))},
        {"profile": PeerProfile(memory_free_bytes=-1)},
        {"profile": PeerProfile(device="")},
        {"profile": PeerProfile(flops_per_s={"float32": float("nan")})},
        {"profile": PeerProfile(flops_per_s={str(i): 1.0 for i in range(33)})},
        {"profile": PeerProfile(memory_bytes_per_s=float("inf"))},
        {"profile": PeerProfile(step_s=-1.0)},
        {"profile": PeerProfile(step_s=float("nan"))},
        {"profile": PeerProfile(wire_elements_per_s={"int8": -1.0})},
        {"profile": PeerProfile(wire_elements_per_s={"\x1b[2J": 1.0})},
        {"profile": PeerProfile(wire_elements_per_s={str(i): 1.0 for i in range(33)})},
        {"profile": PeerProfile(links={PeerId("somebody"): Link(0.001, 1e8)})},
        {"profile": PeerProfile(links={an_id(1): Link(float("nan"), 1e8)})},
        {"profile": PeerProfile(links={an_id(1): Link(0.001, 2e18)})},
        {"profile": PeerProfile(links={an_id(1): Link(-0.001, 1e8)})},
        {"profile": PeerProfile(links={an_id(i): Link(0.001, 1e8) for i in range(65)})},
        {"load": PeerLoad(busy=2.0)},
        {"load": PeerLoad(busy=float("nan"))},
        {"load": PeerLoad(loading={"a part": 1.5})},
        {"load": PeerLoad(loading={"\x1b[2J": 0.5})},
        {"load": PeerLoad(loading={str(i): 0.5 for i in range(65)})},
    ],
)
def test_hostile_records_are_passed_over(bad: dict[str, Any]) -> None:
    company = Company(3)
    company.tell(1, all_of(a_record(7, **bad)), all_of(a_record(8)))
    assert set(company.states()) == {0, 1, 2, 8}
    later = {"version": 11, **bad}
    company.tell(
        1,
        News(
            an_id(2),
            10,
            ALIVE,
            since=10,
            version=later.pop("version"),
            changes=Changes(**{key: value for key, value in later.items() if key != "incarnation"}),
        ),
    )
    if "version" not in bad and "incarnation" not in bad:
        assert company.it.view().find(an_id(2)) == a_record(2)


def test_a_whole_profile_is_taken_in() -> None:
    links = {an_id(i): Link(0.001, 1e8) for i in range(64)}
    rates = {"float32": 1e12, "int8": 1e8}
    profile = PeerProfile(memory_bytes_per_s=1e10, step_s=1e-4, wire_elements_per_s=rates, links=links)
    company = Company(3)
    company.tell(1, all_of(a_record(7, profile=profile)))
    assert company.it.view().find(an_id(7)) == a_record(7, profile=profile)


def test_links_weigh_something() -> None:
    links = {an_id(i): Link(0.001, 1e8) for i in range(64)}
    light, heavy = a_record(7), a_record(7, profile=PeerProfile(links=links))
    assert weight_bytes(heavy) - weight_bytes(light) >= len(msgspec.msgpack.encode(links))


@pytest.mark.parametrize("claim", PeerState)
def test_numbers_that_nobody_could_outrank_are_not_believed(claim: PeerState) -> None:
    company = Company(3)
    company.tell(1, says(2, claim, MAX_COUNT), says(0, claim, MAX_COUNT))
    company.run(2.0)
    assert company.claims() == {0: ALIVE, 1: ALIVE, 2: ALIVE}
    assert company.it.me.incarnation == 10


def test_peers_and_leads_are_bounded() -> None:
    company = Company(3)
    for start in range(3, 3003, 250):
        company.tell(1, *(all_of(a_record(i)) for i in range(start, start + 250)))
    assert len(company.it.view().peers) == MAX_PEERS
    taken = [company.it.introduce((Address("10.9.9.9", port),), company.now) for port in range(1, 1000)]
    assert sum(taken) == MAX_LEADS


def test_one_who_is_really_connected_finds_room_among_rumours() -> None:
    company = Company(3, max_peers=20)
    company.tell(1, *(all_of(a_record(i)) for i in range(3, 100)))
    company.it.connected(an_id(500), company.now)
    company.tell(500, all_of(a_record(500)))
    assert {1, 2, 500} <= company.states().keys()
    assert len(company.states()) == 20


events = st.lists(
    st.tuples(
        st.sampled_from(["tell", "claim", "connect", "break", "goodbye", "introduce", "run", "update", "sleep"]),
        st.integers(0, 5),
        st.integers(9, 12),
        st.sampled_from(PeerState),
        st.sampled_from([0.1, 0.7, 3.0]),
    ),
    max_size=40,
)


@given(events)
def test_whatever_happens_it_stays_sane(happened: list[tuple[str, int, int, PeerState, float]]) -> None:
    """This peer never believes its own death, and nobody who is connected and answers is called dead."""
    company, connected = Company(3), {1, 2}
    company.living = {1, 2, 3, 4, 5}
    for what, number, incarnation, state, seconds in happened:
        match what:
            case "tell":
                company.tell(1, all_of(a_record(number, incarnation=incarnation, version=incarnation), state))
            case "claim" if state is not LEFT:
                company.tell(1, says(number, state, incarnation))
            case "connect" if number:
                company.it.connected(an_id(number), company.now)
                connected.add(number)
            case "break":
                company.it.disconnected(an_id(number), company.now)
                connected.discard(number)
            case "goodbye" if number:
                company.it.said_goodbye(an_id(number), company.now)
            case "introduce":
                company.it.introduce((Address("10.0.0.1", number + 1),), company.now, an_id(number))
            case "update":
                company.it.update(company.now, holds=(str(company.now),))
            case "sleep":
                company.sleep(seconds)
            case _:
                company.run(seconds)
        seen = company.states()
        assert seen[0] is ALIVE
        assert all(seen.get(i) is not DEAD for i in connected), seen
