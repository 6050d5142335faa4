"""When a peer counts as lost, whose fault silence is, and how far away it is; all in made-up time."""

from __future__ import annotations

import pytest

from swarm.transport.pulse import Beat, Pulse

PING, REST, LOST = Beat.PING, Beat.REST, Beat.LOST


def new(linger_s: float = 0.0) -> Pulse:
    pulse = Pulse(keepalive_s=2, silence_s=10, rest_s=45, now=0.0)
    pulse.linger_s = linger_s
    return pulse


def run(pulse: Pulse, until: float, *, used_until: float = 0.0, hears_until: float = 1e9) -> list[tuple[float, Beat]]:
    """Tick when it is due, answer each ping at once, and tell what each tick said."""
    said = []
    while pulse.next_at <= until:
        now = pulse.next_at
        said.append((now, pulse.tick(now, in_use=now <= used_until)))
        if said[-1][1] is LOST:
            break
        if said[-1][1] is PING:
            pulse.ping(now, now)
            if now < hears_until:
                pulse.heard_at = now + 0.001
    return said


def lost(pulse: Pulse, times: range) -> list[int]:
    return [now for now in times if pulse.tick(float(now)) is LOST]


def test_a_silent_peer_in_use_is_lost_after_its_time() -> None:
    assert lost(new(), range(0, 20, 2)) == [12, 14, 16, 18]


def test_whoever_is_heard_stays() -> None:
    pulse = new()
    for now in range(0, 100, 2):
        pulse.heard_at = now - 1.0
        assert pulse.tick(float(now)) is PING


def test_a_stalled_process_blames_itself_first() -> None:
    pulse = new()
    assert pulse.tick(0.0) is PING
    assert pulse.tick(30.0) is PING  # planned for 2.0: this process slept, and grants a fresh period
    assert lost(pulse, range(32, 50, 2)) == [42, 44, 46, 48]
    assert pulse.heard_at == 0.0


def test_a_tick_slightly_late_excuses_nobody() -> None:
    pulse = new()
    assert [now for now in (0.0, 3.5, 7.0, 10.5, 14.0) if pulse.tick(now) is LOST] == [10.5, 14.0]


def test_at_rest_it_is_quiet() -> None:
    said = run(new(), 3600)
    assert [now for now, beat in said[:3] if beat is PING] == [0.0, 2.0, 4.0]
    assert sum(beat is PING for _, beat in said) <= 3 + 3600 / 45
    assert len(said) <= 3 + 2 * (3600 / 45) + 2


def test_whoever_hears_at_rest_need_not_ask() -> None:
    pulse = new()
    run(pulse, 10)
    for now in range(10, 1000, 10):  # the other side pings, or says something else
        pulse.heard_at = float(now)
        assert all(beat is REST for _, beat in run(pulse, now))


def test_in_use_it_is_attentive_and_lingers() -> None:
    pulse = new(linger_s=10)
    said = run(pulse, 200, used_until=100)
    assert [now for now, beat in said if now <= 100] == list(range(0, 101, 2))
    quiet = [now for now, beat in said if beat is REST]
    assert quiet[0] == pytest.approx(110, abs=2)


def test_at_rest_an_unanswered_ping_wakes_it() -> None:
    said = run(new(), 1000, hears_until=50)
    asked = next(now for now, beat in said if beat is PING and now > 50)
    assert said[-1][1] is LOST
    assert asked + 10 <= said[-1][0] <= asked + 14


def test_silence_counts_from_the_new_use_on() -> None:
    pulse = new()
    run(pulse, 10)
    assert pulse.next_at > 40
    pulse.rouse(40.0)
    assert pulse.next_at == 42.0
    assert run(pulse, 200, used_until=200, hears_until=0)[-1] == (52.0, LOST)


def test_the_smallest_round_trip_tells_the_offset() -> None:
    pulse = new()
    assert pulse.rtt_s is None
    assert pulse.clock_offset_s == 0.0
    for sent, there, back in ((10.0, 110.5, 11.0), (20.0, 120.05, 20.1), (30.0, 130.9, 31.0)):
        pulse.pong(pulse.ping(sent, sent), there, back)
    assert pulse.rtt_s == pytest.approx(0.1)
    assert pulse.clock_offset_s == pytest.approx(100.0)


def test_an_old_offset_is_forgotten() -> None:
    pulse = new()
    for sent, there, back in ((10.0, 110.0, 10.1), (100.0, 201.0, 100.4)):
        pulse.pong(pulse.ping(sent, sent), there, back)
    assert pulse.rtt_s == pytest.approx(0.4)
    assert pulse.clock_offset_s == pytest.approx(100.8)


def test_unknown_pongs_are_ignored() -> None:
    pulse = new()
    pulse.pong(7, 1e9, 0.0)
    assert pulse.rtt_s is None
