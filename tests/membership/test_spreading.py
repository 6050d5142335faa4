"""How news get about: own changes to all, what was heard to some, what got lost by comparing. And one's own name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadInput, MalformedFrame
from swarm.membership import MAX_MESSAGE_BYTES, Membership, decode, encode
from swarm.membership.messages import BUCKETS, MAX_NEWS, Ack, Changes, Digest, Known, News, Ping, Sync, Tell
from swarm.membership.own import MOST_REFUTE_S, REFUTE_S, TWIN_SIGNS, UNSEEN
from swarm.membership.spreading import FANOUT, SYNC_S
from swarm.membership.table import Entry, changed, first_entry, newcomer
from swarm.types import Address, PeerProfile
from tests.membership.company import ALIVE, DEAD, LEFT, SUSPECT, Company, a_record, all_of, an_id, says, sent, told

# News


def test_own_changes_are_told_to_all_at_once_and_only_what_changed() -> None:
    company = Company(6)
    company.it.update(company.now, holds=("a part",))
    news = told(company.run(0.1), 0)
    assert len(news) == 5
    assert set(news) == {News(an_id(0), 10, ALIVE, since=10, version=11, changes=Changes(holds=("a part",)))}


def test_but_not_in_a_flood() -> None:
    company = Company(3)
    for hundredth in range(100):
        company.it.update(company.now, profile=PeerProfile(memory_free_bytes=hundredth))
        company.run(0.01, step_s=0.01)
    assert len(told(company.done, 0, to=1)) <= 1 + 21
    company.run(0.1)
    assert told(company.done, 0, to=1)[-1].version == company.it.me.version


def test_an_update_that_changes_nothing_is_none() -> None:
    company = Company(3)
    company.it.update(company.now, holds=())
    assert company.it.me == a_record(0)
    assert told(company.run(0.2), 0) == []
    with pytest.raises(TypeError, match="incarnation"):
        company.it.update(company.now, incarnation=11)
    with pytest.raises(TypeError, match="colour"):
        company.it.update(company.now, colour="red")


def test_a_peer_that_others_would_not_take_in_hears_so() -> None:
    with pytest.raises(BadInput, match="printable"):
        Membership(a_record(0, name="bell\x07"))
    company = Company(3)
    with pytest.raises(BadInput):
        company.it.update(company.now, holds=("x" * 1000,))
    assert company.it.me == a_record(0)


def test_what_was_heard_is_passed_on_about_log_n_times() -> None:
    company = Company(40)
    company.tell(1, all_of(a_record(77)))
    company.run(2.0)
    assert len(told(company.done, 77)) == FANOUT * (41).bit_length()


def test_what_somebody_tells_of_itself_is_passed_on_only_as_a_reserve() -> None:
    company = Company(40)
    company.tell(1, all_of(a_record(1, version=11, holds=("a part",))))
    company.run(2.0)
    assert len([news for news in told(company.done, 1) if news.version == 11]) == FANOUT


def test_news_with_a_gap_before_them_wait_for_a_comparison() -> None:
    company = Company(3)
    gap = News(an_id(1), 10, ALIVE, since=12, version=13, changes=Changes(holds=("a part",)))
    company.tell(1, gap)
    assert company.it.view().find(an_id(1)) == a_record(1)
    company.hear(1, Sync((1,) * BUCKETS))
    [digest] = sent(company.run(0.05) + company.done, Digest, 1)[-1:]
    assert Known(an_id(1), 10, 10, ALIVE) in digest.known


# Comparing


def test_now_and_then_somebody_is_asked_whether_all_is_the_same() -> None:
    company = Company(3)
    syncs = sent(company.run(10 * SYNC_S), Sync)
    assert 8 <= len(syncs) <= 13
    assert len(set(syncs)) == 1


def compare(one: Membership, other: Membership) -> int:
    """Let one ask the other, and carry messages until nobody says anything; how many they took."""
    one._spreading.compare(other.me.id)
    count = 0
    for _ in range(20):
        sent_on = [(other, a) for a in one.tick(0.0)] + [(one, a) for a in other.tick(0.0)]
        sent_on = [(to, a) for to, a in sent_on if getattr(a, "peer_id", None) == to.me.id and hasattr(a, "message")]
        if not sent_on:
            return count
        for to, action in sent_on:
            count += 1
            sender = one if to is other else other
            to.received(sender.me.id, decode(encode(action.message)), 0.0)  # type: ignore[union-attr]
    raise AssertionError("they never end")


entries = st.lists(
    st.builds(
        lambda number, incarnation, version, held, claim: Entry(
            a_record(number, incarnation=incarnation, version=version, holds=("a part",) * (version % 2)),
            (version,) * 6,
            claim,
        ),
        st.integers(1, 6),
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(0, 1),
        st.sampled_from([ALIVE, SUSPECT]),
    ),
    max_size=12,
)


@given(entries, entries)
@settings(max_examples=60)
def test_two_who_compare_agree(mine: list[Entry], theirs: list[Entry]) -> None:
    one, other = Membership(a_record(100)), Membership(a_record(101))
    for membership, known in ((one, mine), (other, theirs)):
        for entry in known:
            membership._put(entry)
            membership._detector.enlist(entry.record.id)
    compare(one, other)
    left = {e.record.id: (e.record.version, e.rank) for e in one._table if int(e.record.id, 16) < 100}
    right = {e.record.id: (e.record.version, e.rank) for e in other._table if int(e.record.id, 16) < 100}
    assert left == right


def test_whoever_knows_the_same_says_nothing() -> None:
    company = Company(5)
    company.run(1.0)
    company.hear(1, Sync(company.it._table.hashes))
    assert sent(company.done[-3:], Digest) == []


@given(entries, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_merging_is_commutative_and_idempotent(given_entries: list[Entry], rng: random.Random) -> None:
    def merged(news: Sequence[News]) -> dict[str, object]:
        membership = Membership(a_record(100))
        membership.received(an_id(99), Tell(tuple(news)), 0.0)
        return {e.record.id: (e.record.version, e.rank) for e in membership._table}

    news = [entry.news(0) for entry in given_entries]
    shuffled = [*news, *news]
    rng.shuffle(shuffled)
    assert merged(news) == merged(shuffled)


# Sizes


def a_heavy_record(number: int) -> object:
    holds = tuple(f"{i:03}" + "\u4e2d" * 50 for i in range(200))
    return a_record(number, holds=holds, name="\u4e2d" * 128)


def test_however_much_there_is_to_tell_each_message_is_short_enough() -> None:
    company = Company(2)
    for number in range(10, 110):
        company.tell(1, all_of(a_heavy_record(number)))  # type: ignore[arg-type]
    company.run(0.5)
    company.hear(1, Digest(2**BUCKETS - 1, ()))
    company.run(0.5)
    tells = sent(company.done, Tell, 1)
    assert sum(len(tell.news) for tell in tells) >= 100
    assert all(len(encode(tell)) <= MAX_MESSAGE_BYTES and len(tell.news) <= MAX_NEWS for tell in tells)


@pytest.mark.parametrize(
    "message",
    [
        Ping(1, (says(1, SUSPECT, accuser=2),)),
        Ack(2**63 - 1),
        Tell((all_of(a_record(1)),)),
        Sync(tuple(range(BUCKETS))),
        Digest(3, (Known(an_id(1), 2, 3, LEFT),)),
    ],
)
def test_what_is_written_is_read(message: Ping | Ack | Tell | Sync | Digest) -> None:
    assert decode(encode(message)) == message
    with pytest.raises(MalformedFrame):
        decode(encode(message)[:-1])


def test_entries_tell_what_somebody_lacks() -> None:
    entry = first_entry(a_record(1))
    known = newcomer(entry.news(0))
    assert known == entry
    newer = Entry(a_record(1, version=12, holds=("a", "b")), (10, 10, 10, 10, 10, 12), ALIVE)
    assert changed(entry, newer.news(10)) == newer
    assert newer.news(12).changes is None
    assert newcomer(newer.news(10)) is None, "that is not all of it"


# The own entry


def test_who_is_accused_refutes_and_tells_all() -> None:
    company = Company(4)
    company.tell(1, says(0, DEAD))
    assert company.it.me.incarnation == 11
    assert company.states()[0] is ALIVE
    company.run(0.1)
    assert {to for to in (1, 2, 3) if says(0, ALIVE, 11) in told(company.done, 0, to)} == {1, 2, 3}
    company.tell(1, says(0, DEAD), says(0, SUSPECT), says(0, LEFT, 9))
    assert company.it.me.incarnation == 11, "old claims need no answer"


def test_who_missed_the_answer_hears_it_when_it_asks_again() -> None:
    company = Company(3)
    company.tell(1, says(0, SUSPECT))
    company.run(1.0)
    company.hear(2, Ping(5, (says(0, SUSPECT),)))
    assert Ack(5, (says(0, ALIVE, 11),)) in sent(company.done, Ack, 2)


def test_accusations_are_answered_only_so_often() -> None:
    company = Company(3)
    for _ in range(10):
        company.tell(1, says(0, SUSPECT, company.it.me.incarnation))
    assert company.it.me.incarnation == 11
    company.run(REFUTE_S)
    company.tell(1, says(0, SUSPECT, 11))
    assert company.it.me.incarnation == 12


def test_who_restarted_with_an_older_clock_overtakes_what_others_remember_of_it() -> None:
    company = Company(3)
    company.tell(1, all_of(a_record(0, incarnation=70, version=90, holds=("once",))))
    assert (company.it.me.incarnation, company.it.me.version) == (71, 90 + UNSEEN)
    assert company.it.me.holds == ()
    company.run(0.1)
    assert told(company.done, 0, to=2)[-1].changes is not None
    assert company.it.twin is None


def test_who_leaves_does_not_refute_it() -> None:
    company = Company(3)
    company.it.leave(company.now)
    company.tell(1, says(0, DEAD))
    assert company.it.me.incarnation == 10
    assert says(0, LEFT) in told(company.run(0.1) + company.done, 0, to=2)
    company.it.disconnected(an_id(1), company.now)
    assert not [a for _, a in company.run(5.0) if type(a).__name__ == "Dial"]


def test_a_twin_is_noticed_and_answered_ever_more_rarely() -> None:
    company = Company(3)
    elsewhere = (Address("10.7.7.7", 4747),)
    answers = []
    for second in range(600):
        me = company.it.me
        other = a_record(0, incarnation=me.incarnation + 1, version=me.version + 1, addresses=elsewhere)
        company.tell(1, all_of(other))
        if company.it.me.incarnation != me.incarnation:
            answers.append(second / 10)
        company.run(0.1)
    assert company.it.twin == elsewhere
    assert len([when for when in answers if when < 30]) <= 2 * TWIN_SIGNS + 3
    assert max(b - a for a, b in pairwise(answers)) <= MOST_REFUTE_S + 0.2
