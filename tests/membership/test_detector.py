"""Who still answers: probes, inquiries, doors, and blaming oneself first."""

from __future__ import annotations

import pytest

from swarm.membership import Knock
from swarm.membership.detector import HELPERS, KNOCK_S, PERIOD_S
from swarm.membership.health import WORST, LocalHealth
from swarm.membership.inquiry import DEAF_S, REDIAL_S, ROUNDS_ALONE, ROUNDS_LEAST, STALLED_S
from swarm.membership.messages import Ack, Ask, Nack, Ping
from swarm.types import Address, Door, PeerState
from tests.membership.company import (
    ALIVE,
    DEAD,
    LEFT,
    SUSPECT,
    Company,
    a_record,
    all_of,
    an_id,
    recipients,
    says,
    sent,
    told,
)


def gone(company: Company, number: int, door: Door = Door.SILENT) -> None:
    """It says nothing more."""
    company.living.discard(number)
    company.doors[number] = door


# Probes


def test_everybody_is_probed_within_a_round_and_the_next_of_the_ring_all_the_time() -> None:
    company = Company(8)
    done = company.run(2 * 7 * PERIOD_S * 1.15)
    pinged = recipients(done, Ping)
    assert set(pinged) == set(range(1, 8))
    assert pinged[::2] == [1] * len(pinged[::2]) or pinged[1::2] == [1] * len(pinged[1::2])


def test_the_ring_skips_those_who_are_inquired_about() -> None:
    company = Company(4)
    gone(company, 1, Door.OPEN)
    company.until(1, SUSPECT)
    assert 2 in recipients(company.run(2.0), Ping)


def test_who_hears_a_ping_answers_with_its_number() -> None:
    company = Company(3)
    company.hear(1, Ping(77))
    assert Ack(77) in sent(company.done, Ack, 1)


def test_who_is_accused_hears_so_with_every_ping_and_answer() -> None:
    company = Company(3)
    gone(company, 1, Door.OPEN)
    company.until(1, SUSPECT)
    company.run(2.0)
    assert sent(company.done, Ping, 1)[-1].news == (says(1, SUSPECT),)
    company.it.received(an_id(1), Ping(5), company.now)
    company.run(0.05)
    assert sent(company.done, Ack, 1)[-1].news == (says(1, SUSPECT),)


def test_a_late_ping_is_forgiven_when_anything_else_came() -> None:
    company = Company(2)
    gone(company, 1)
    for _ in range(40):
        company.run(0.1)
        company.hear(1, Nack(999, Door.OPEN))
    assert not [a for _, a in company.done if isinstance(a, Knock)]


# Inquiries


def test_a_silent_peer_is_pinged_knocked_at_and_asked_about() -> None:
    company = Company(6)
    gone(company, 1)
    company.until(1, SUSPECT)
    assert len(set(recipients(company.done, Ask)[:HELPERS])) == HELPERS
    assert all(ask.target == an_id(1) for ask in sent(company.done, Ask))
    assert any(isinstance(a, Knock) and a.peer_id == an_id(1) for _, a in company.done)


def test_a_word_through_others_ends_it() -> None:
    """This peer alone hears nothing from that one."""
    company = Company(3)
    deaf_to = company._answer

    def answer(number: int, message: object) -> None:
        if not (number == 1 and isinstance(message, Ping)):
            deaf_to(number, message)  # type: ignore[arg-type]

    company._answer = answer  # type: ignore[method-assign]
    company.doors[1] = Door.SILENT
    company.run(30.0)
    assert company.claims()[1] is ALIVE


ROUNDS = [(2, ROUNDS_ALONE), (3, ROUNDS_ALONE - 1), (4, ROUNDS_LEAST), (9, ROUNDS_LEAST)]


@pytest.mark.parametrize(("size", "rounds"), ROUNDS)
def test_suspicion_shortens_as_others_confirm_it(size: int, rounds: int) -> None:
    company = Company(size)
    gone(company, 1)
    company.until(1, DEAD)
    assert len([a for _, a in company.done if isinstance(a, Knock)]) == rounds


def test_the_silent_one_is_told_of_as_an_accusation_of_its_own() -> None:
    company = Company(5)
    gone(company, 1)
    company.until(1, SUSPECT)
    company.run(0.5)
    assert says(1, SUSPECT, accuser=0) in told(company.done, 1)


def test_an_open_door_is_busy_and_dead_only_after_long() -> None:
    company = Company(4)
    gone(company, 1, Door.OPEN)
    company.until(1, SUSPECT)
    assert STALLED_S - 2 < company.until(1, DEAD) < STALLED_S + 5
    assert all(news.accuser == "" for news in told(company.done, 1)), "which is nobody's confirmation"


def test_a_door_that_is_open_to_others_counts() -> None:
    """Knocks from here are lost, all of them."""
    company = Company(4)
    gone(company, 1, Door.OPEN)
    company._knock = lambda knock: company.it.knocked(knock.peer_id, Door.SILENT, company.now)  # type: ignore[method-assign]
    company.run(STALLED_S - 5)
    assert company.states()[1] is SUSPECT


def test_a_shut_door_is_dead_at_once_when_the_connection_is_gone() -> None:
    company = Company(4)
    gone(company, 1, Door.SHUT)
    company.it.disconnected(an_id(1), company.now)
    assert company.until(1, DEAD) < 0.3


def test_a_broken_connection_alone_accuses_nobody_for_a_while() -> None:
    company = Company(4)
    gone(company, 1, Door.OPEN)
    company.it.disconnected(an_id(1), company.now)
    assert company.states()[1] is SUSPECT, "here, but nobody hears of it"
    company.run(REDIAL_S - 0.5)
    assert company.claims()[1] is ALIVE
    company.run(3.0)
    assert company.claims()[1] is SUSPECT


def test_own_trouble_with_knocking_proves_nothing() -> None:
    company = Company(2)
    gone(company, 1, Door.UNKNOWN)
    company.run(60.0)
    assert company.claims()[1] is ALIVE
    assert company.it._health.score == WORST


def test_who_hears_from_nobody_blames_itself() -> None:
    company = Company(4)
    for number in (1, 2, 3):
        gone(company, number)
    company.run(DEAF_S - 2)
    assert DEAD not in company.states().values()
    company.run(60.0)
    assert set(company.states().values()) == {ALIVE, DEAD}


def test_a_peer_without_addresses_is_judged_by_its_silence() -> None:
    company = Company(3)
    company.tell(1, all_of(a_record(7, addresses=(), client=True)))
    company.it.connected(an_id(7), company.now)
    company.it.disconnected(an_id(7), company.now)
    company.doors[7] = Door.SILENT
    assert company.until(7, DEAD) < 3.0
    assert not [a for _, a in company.done if isinstance(a, Knock) and a.peer_id == an_id(7)]


# Helping


def test_who_is_asked_asks_and_passes_on_what_comes() -> None:
    company = Company(3)
    company.hear(2, Ask(41, an_id(1)))
    company.run(0.1)
    assert Ack(41) in sent(company.done, Ack, 2)


@pytest.mark.parametrize("door", [Door.OPEN, Door.SILENT, Door.SHUT])
def test_who_is_asked_in_vain_says_so(door: Door) -> None:
    company = Company(3)
    gone(company, 1, door)
    company.hear(2, Ask(41, an_id(1)))
    company.run(KNOCK_S)
    assert Nack(41, door) in sent(company.done, Nack, 2)


def test_who_is_asked_of_the_dead_looks_again() -> None:
    company = Company(4)
    gone(company, 1)
    company.until(1, DEAD)
    company.doors[1] = Door.OPEN
    company.hear(2, Ask(41, an_id(1)))
    company.run(0.2)
    assert Nack(41, Door.OPEN) in sent(company.done, Nack, 2)
    assert company.states()[1] is DEAD, "until it says so itself"


def test_who_is_asked_of_somebody_it_does_not_know_says_nothing_against_him() -> None:
    company = Company(3)
    company.hear(2, Ask(41, an_id(9)))
    company.run(0.05)
    assert sent(company.done, Nack, 2) == [Nack(41, Door.UNKNOWN)]
    company.hear(2, Ask(42, an_id(0)))
    company.run(0.05)
    assert Ack(42) in sent(company.done, Ack, 2)


# Deaths declared by others


def test_a_declared_death_is_checked_and_the_living_hears_of_it() -> None:
    company = Company(5)
    company.tell(2, says(1, DEAD, accuser=2))
    company.run(1.0)
    assert company.states()[1] is ALIVE
    assert says(1, DEAD, accuser=2) in told(company.done, 1, to=1), "so that it can refute it"


def test_a_declared_death_is_believed_after_two_silent_rounds() -> None:
    company = Company(5)
    gone(company, 1)
    company.tell(2, says(1, DEAD, accuser=2))
    assert company.until(1, DEAD) < 1.6


def test_a_declared_death_of_a_busy_peer_is_not_believed() -> None:
    company = Company(5)
    gone(company, 1, Door.OPEN)
    company.tell(2, says(1, DEAD, accuser=2))
    company.run(STALLED_S - 5)
    assert company.states()[1] is SUSPECT


def test_a_higher_incarnation_makes_what_was_found_out_of_date() -> None:
    company = Company(2)
    gone(company, 1)
    company.until(1, SUSPECT)
    company.run(1.0)
    company.tell(1, says(1, ALIVE, 11))
    assert company.claims()[1] is ALIVE


def test_goodbye_ends_every_inquiry() -> None:
    company = Company(3)
    gone(company, 1)
    company.until(1, SUSPECT)
    company.it.said_goodbye(an_id(1), company.now)
    company.run(10.0)
    assert company.states()[1] is LEFT


# One's own health


def test_the_clock_counts_only_the_time_lived() -> None:
    health = LocalHealth()
    assert [health.lived(now) for now in (5.0, 5.1, 5.3)] == pytest.approx([0.0, 0.1, 0.3])
    assert health.score == 0
    assert health.lived(65.3) == pytest.approx(0.6)
    assert health.score == 1
    assert health.lived(60.0) == pytest.approx(0.6), "a clock that goes back takes nothing away"


def test_patience_grows_with_every_sign_and_comes_back() -> None:
    health = LocalHealth()
    for _ in range(20):
        health.worse()
    assert health.patience == 1 + WORST
    for _ in range(20):
        health.better()
    assert health.patience == 1


def test_a_stalled_peer_blames_nobody_else() -> None:
    company = Company(4)
    company.sleep(60.0)
    assert set(company.states().values()) == {ALIVE}
    assert company.it._health.score >= 1
    company.run(5.0)
    assert set(company.claims().values()) == {ALIVE}
    assert company.it._health.score == 0


def test_who_is_accused_doubts_itself() -> None:
    company = Company(3)
    company.tell(1, says(0, PeerState.SUSPECT))
    assert company.it._health.score == 1


def test_who_asks_for_help_in_vain_doubts_itself() -> None:
    company = Company(4)
    for number in (1, 2, 3):
        gone(company, number, Door.OPEN)
    company.run(4.0)
    assert company.it._health.score >= 1


def test_addresses_are_looked_up_when_they_are_needed() -> None:
    company = Company(2)
    moved = (Address("10.9.9.9", 1),)
    company.tell(1, all_of(a_record(1, version=11, addresses=moved)))
    gone(company, 1)
    company.until(1, SUSPECT)
    assert {a.addresses for _, a in company.done if isinstance(a, Knock)} == {moved}
