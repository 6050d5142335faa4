"""When a peer counts as lost, whose fault silence is, and how far away it is; all in made-up time."""

from __future__ import annotations

import pytest

from swarm.transport.pulse import Pulse


def test_a_silent_peer_is_lost_after_its_time() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    assert [now for now in range(0, 20, 2) if not pulse.tick(float(now))] == [12, 14, 16, 18]


def test_whoever_is_heard_stays() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    for now in range(0, 100, 2):
        pulse.heard_at = now - 1.0
        assert pulse.tick(float(now))


def test_a_stalled_process_blames_itself_first() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    assert pulse.tick(0.0)
    assert pulse.tick(30.0)  # planned for 2.0: this process slept, and grants a fresh period
    assert [now for now in range(32, 50, 2) if not pulse.tick(float(now))] == [42, 44, 46, 48]


def test_a_tick_slightly_late_excuses_nobody() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    ticks = [n * 3.5 for n in range(5)]
    assert [now for now in ticks if not pulse.tick(now)] == [10.5, 14.0]


def test_the_smallest_round_trip_tells_the_offset() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    assert pulse.rtt_s is None
    assert pulse.clock_offset_s == 0.0
    for sent, there, back in ((10.0, 110.5, 11.0), (20.0, 120.05, 20.1), (30.0, 130.9, 31.0)):
        pulse.pong(pulse.ping(sent), there, back)
    assert pulse.rtt_s == pytest.approx(0.1)
    assert pulse.clock_offset_s == pytest.approx(100.0)


def test_unknown_pongs_are_ignored() -> None:
    pulse = Pulse(keepalive_s=2, silence_s=10, now=0.0)
    pulse.pong(7, 1e9, 0.0)
    assert pulse.rtt_s is None
