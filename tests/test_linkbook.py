"""Estimates of links, by explicit times: what counts, what is forgotten, what is told."""

from __future__ import annotations

import pytest

from swarm.linkbook import (
    ABSENT_S,
    AGREEING,
    MAX_BYTES_PER_S,
    MAX_LINKS,
    MAX_TOLD,
    MIN_BYTES_PER_S,
    MOST_RECHECKS,
    RECHECK_S,
    LinkBook,
    LinkEstimate,
)
from swarm.types import Link, PeerId

MB = 10**6
FAST = Link(0.001, 100e6)


def tried(link: Link = FAST) -> LinkEstimate:
    estimate = LinkEstimate(0.0)
    estimate.tried(link, 0.0)
    return estimate


def transfers(estimate: LinkEstimate, bytes_per_s: float, count: int, nbytes: int = MB, now: float = 1.0) -> None:
    for _ in range(count):
        estimate.observed(nbytes, estimate.rtt_s + nbytes / bytes_per_s, now)


def a_peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


# One link


def test_nothing_is_known_at_first() -> None:
    estimate = LinkEstimate(0.0)
    assert estimate.link is None
    assert not estimate.is_complete
    assert not estimate.is_doubtful(1e6)


def test_a_trial_tells_all() -> None:
    assert tried().link == FAST


def test_one_slow_transfer_says_little_for_the_receiver_may_have_been_busy() -> None:
    estimate = tried()
    transfers(estimate, 1e6, AGREEING - 1)
    assert estimate.bytes_per_s == FAST.bytes_per_s


def test_a_collapse_shows_within_three_transfers() -> None:
    estimate = tried()
    transfers(estimate, 100e6, 8)
    transfers(estimate, 1e6, 3)
    assert estimate.bytes_per_s == pytest.approx(1e6)


def test_a_collapse_shows_in_transfers_that_are_short_on_a_fast_link() -> None:
    estimate = tried(Link(0.001, 1e9))
    transfers(estimate, 10e6, 3, nbytes=150_000)
    assert estimate.bytes_per_s == pytest.approx(10e6)


def test_a_recovery_shows_within_three_transfers() -> None:
    estimate = tried(Link(0.001, 1e6))
    transfers(estimate, 100e6, 3)
    assert estimate.bytes_per_s == pytest.approx(100e6)


def test_what_is_too_short_to_tell_of_the_rate_tells_of_the_round_trip() -> None:
    estimate = tried(Link(0.001, 1e9))
    for _ in range(8):
        estimate.observed(100_000, 0.0021, 1.0)
    assert estimate.bytes_per_s == 1e9
    assert estimate.rtt_s == pytest.approx(0.002)


def test_small_transfers_tell_of_the_round_trip() -> None:
    estimate = LinkEstimate(0.0)
    for seconds in (0.004, 0.002, 0.9):
        estimate.observed(100, seconds, 1.0)
    assert estimate.rtt_s == 0.004
    assert estimate.link is None


def test_large_transfers_alone_tell_of_the_rate() -> None:
    estimate = LinkEstimate(0.0)
    estimate.observed(MB, 0.1, 1.0)
    assert estimate.link == Link(0.0, 10e6)
    assert not estimate.is_complete


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 1e-300, 1e300])
def test_rates_are_bounded(seconds: float) -> None:
    estimate = LinkEstimate(0.0)
    estimate.observed(10**9, seconds, 1.0)
    assert MIN_BYTES_PER_S <= estimate.bytes_per_s <= MAX_BYTES_PER_S


def test_a_transfer_that_hangs_counts_at_once() -> None:
    estimate = tried()
    estimate.suspected(200e3, 5.0)
    assert estimate.link == Link(FAST.rtt_s, 200e3)
    estimate.suspected(300e3, 6.0)
    assert estimate.bytes_per_s == 200e3


def test_a_collapsed_link_is_tried_again_later_and_recovers() -> None:
    estimate = tried()
    estimate.suspected(200e3, 5.0)
    assert not estimate.is_doubtful(4.0 + RECHECK_S)
    assert estimate.is_doubtful(5.0 + RECHECK_S)
    estimate.tried(FAST, 36.0)
    assert estimate.link == FAST
    assert not estimate.is_doubtful(1e6)


def test_a_collapse_seen_by_transfers_is_tried_again_too() -> None:
    estimate = tried()
    transfers(estimate, 1e6, 3, now=7.0)
    assert estimate.is_doubtful(7.0 + RECHECK_S)


def test_transfers_that_are_fast_again_end_the_doubt() -> None:
    estimate = tried()
    estimate.suspected(200e3, 5.0)
    transfers(estimate, 90e6, 3, now=6.0)
    assert estimate.bytes_per_s == pytest.approx(90e6)
    assert not estimate.is_doubtful(1e6)


def test_a_link_that_stays_slow_is_tried_ever_later_and_then_left_in_peace() -> None:
    estimate, now, waits = tried(), 0.0, []
    estimate.suspected(1e6, now)
    while estimate.is_doubtful(now + 1e6):
        began = now
        while not estimate.is_doubtful(now):
            now += 1.0
        waits.append(now - began)
        estimate.tried(Link(0.001, 1e6), now)
    assert waits == [RECHECK_S * 2**i for i in range(MOST_RECHECKS)]
    assert estimate.bytes_per_s == 1e6


def test_trials_that_fail_leave_what_was_known() -> None:
    estimate = tried()
    estimate.suspected(1e6, 0.0)
    estimate.failed(30.0)
    assert estimate.bytes_per_s == 1e6
    assert not estimate.is_doubtful(30.0 + RECHECK_S)
    assert estimate.is_doubtful(30.0 + 2 * RECHECK_S)


# All links


def book_of(*numbers: int, now: float = 0.0) -> LinkBook:
    book = LinkBook()
    for number in numbers:
        book.of(a_peer(number), now).tried(FAST, now)
    return book


def test_at_most_so_many_links_are_kept_and_the_least_recent_goes() -> None:
    book = LinkBook()
    for number in range(MAX_LINKS + 1):
        book.of(a_peer(number), number).tried(FAST, number)
    assert len(book.links()) == MAX_LINKS
    assert not book.knows(a_peer(0))


def test_the_gone_are_forgotten_after_a_while() -> None:
    book = book_of(1, 2)
    book.retain({a_peer(1)}, ABSENT_S - 1)
    assert book.knows(a_peer(2))
    book.retain({a_peer(1)}, ABSENT_S)
    assert list(book.links()) == [a_peer(1)]
    assert list(book.news() or ()) == [a_peer(1)]


def test_others_hear_of_a_link_once_in_two_digits() -> None:
    book = LinkBook()
    assert book.news() is None
    book.of(a_peer(1), 0.0).tried(Link(0.00123456, 123_456_789.0), 0.0)
    assert book.news() == {a_peer(1): Link(0.0012, 120e6)}
    assert book.news() is None


@pytest.mark.parametrize(
    ("link", "is_told"),
    [
        (Link(0.001, 80e6), False),
        (Link(0.001, 120e6), False),
        (Link(0.0011, 100e6), False),
        (Link(0.001, 70e6), True),
        (Link(0.001, 130e6), True),
        (Link(0.0015, 100e6), True),
    ],
)
def test_others_hear_of_what_changed_by_more_than_a_quarter(link: Link, is_told: bool) -> None:
    book = book_of(1)
    book.news()
    book.of(a_peer(1), 1.0).tried(link, 1.0)
    assert book.news() == ({a_peer(1): link} if is_told else None)


def test_slow_drift_is_told_when_it_has_gone_far_enough() -> None:
    book, told = book_of(1), []
    for rate in range(100, 50, -2):
        book.of(a_peer(1), 1.0).tried(Link(0.001, rate * 1e6), 1.0)
        if (news := book.news()) is not None:
            told.append(news[a_peer(1)].bytes_per_s)
    assert told == [100e6, 74e6, 54e6]


def test_those_used_most_recently_are_told_and_stay_told() -> None:
    book = book_of(*range(MAX_TOLD + 8))
    first = book.news()
    assert first is not None
    assert len(first) == MAX_TOLD
    book.of(a_peer(MAX_TOLD + 7), 30.0).tried(FAST, 30.0)  # hardly more recent than the others
    assert book.news() is None
    book.of(a_peer(MAX_TOLD + 7), 300.0).tried(FAST, 300.0)
    assert a_peer(MAX_TOLD + 7) in (book.news() or ())
