"""Three policies, in virtual time: every row goes through its own slices once, batches are shared, nobody starves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.batching import POLICIES, Batching, Ran
from swarm.batching.jobs import Job
from tests.batching.virtual import DEPTH, Server, whole

EVERY = pytest.mark.parametrize("policy", sorted(POLICIES))


@contextmanager
def server(policy: str, **options: Any) -> Iterator[Server]:
    made = Server(policy, **options)
    try:
        yield made
    finally:
        made.close()


def cut_of(job: Job) -> int:
    return int(job.part[1:])


ASKED = st.lists(
    st.tuples(st.integers(0, DEPTH - 1), st.floats(0, 3), st.sampled_from("abc"), st.integers(1, 4), st.booleans()),
    min_size=1,
    max_size=60,
)


@EVERY
@settings(max_examples=60, deadline=None)
@given(asked=ASKED, max_batch=st.integers(1, 9))
def test_each_row_goes_through_its_own_slices_exactly_once(policy: str, asked: list[Any], max_batch: int) -> None:
    with server(policy, batching=Batching(max_batch=max_batch)) as served:
        at, jobs, cancelled = 0.0, [], set()
        for cut, pause, requester, rows, is_cancelled in asked:
            at += pause
            jobs.append(served.ask(cut, at, requester, rows))
            if is_cancelled and len(jobs) % 3 == 0:
                served.cancel(jobs[-1])
                cancelled.add(jobs[-1])
        ended = served.finish()
        for job in jobs:
            if job not in cancelled:
                outcome = ended[job][1]
                assert isinstance(outcome, Ran)
                assert outcome.output.ravel().tolist() == [whole(cut_of(job))] * job.rows
        for batch in served.batches:
            assert batch.rows <= max(max_batch, *(group.rows for group in batch.groups))
        assert not len(served.queue)
        assert not served.queue._pending, "no work is thought to be left"


@EVERY
def test_a_worker_that_is_idle_begins_at_once(policy: str) -> None:
    with server(policy) as served:
        job = served.ask(0, 5.0)
        (ended, ran) = served.finish()[job]
        assert isinstance(ran, Ran)
        assert ran.queue_s == 0
        assert ended == pytest.approx(5.0 + DEPTH * 1.1)


def test_a_batch_takes_in_those_who_begin_where_it_is() -> None:
    with server("joining") as served:
        early = served.ask(0, 0.0)
        late = [served.ask(3, 1.0), served.ask(5, 1.5)]
        ended = served.finish()
        assert len({ended[job][0] for job in (early, *late)}) == 1, "all come through with the last slice, together"
        assert [batch.rows for batch in served.batches] == [1, 1, 1, 2, 2, 3]


def test_tails_of_other_cuts_wait_for_each_other() -> None:
    with server("tails") as served:
        jobs = [served.ask(0, 0.0), served.ask(3, 0.5), served.ask(3, 0.6), served.ask(5, 0.7)]
        served.finish()
        assert [(batch.slice, batch.rows) for batch in served.batches] == [
            ("s0+s1+s2+s3+s4+s5", 1),
            ("s3+s4+s5", 2),
            ("s5", 1),
        ]
        assert all(job in served.ended for job in jobs)


def test_slices_choose_anew_after_each() -> None:
    with server("slices", cuts=(0, 3)) as served:
        first = served.ask(0, 0.0)
        second = served.ask(3, 1.0)
        served.finish()
        assert [(batch.slice, batch.rows) for batch in served.batches] == [("s0+s1+s2", 1), ("s3+s4+s5", 2)]
        assert served.ended[first][0] == served.ended[second][0]


@EVERY
def test_nobody_starves_beside_a_stream_that_fills_every_batch(policy: str) -> None:
    """Two at the start of the depth for every one that a batch can take; one begins in the middle."""
    with server(policy, batching=Batching(max_batch=4, max_waiting=1000)) as served:
        victim = None
        for i in range(300):
            served.ask(0, 0.5 * i)
            if i == 20:
                victim = served.ask(3, 0.5 * i)
        assert victim is not None
        assert victim in served.ended, "while the stream still goes on"
        assert served.ended[victim][0] - victim.arrived < 60


@EVERY
def test_requesters_take_turns(policy: str) -> None:
    with server(policy, batching=Batching(max_batch=2)) as served:
        greedy = [served.ask(0, 0.0, "greedy") for _ in range(20)]
        modest = served.ask(0, 0.0, "modest")
        ended = served.finish()
        assert ended[modest][0] <= sorted(ended[job][0] for job in greedy)[4]


@EVERY
def test_the_urgent_go_first(policy: str) -> None:
    with server(policy, batching=Batching(max_batch=1)) as served:
        running = served.ask(0, 0.0, deadline=100)
        patient = [served.ask(0, 0.1, deadline=1000) for _ in range(5)]
        urgent = served.ask(0, 0.2, deadline=500)
        ended = served.finish()
        assert ended[running][0] < ended[urgent][0] < min(ended[job][0] for job in patient)


def test_joining_answers_as_many_as_tails_and_more_where_cuts_differ() -> None:
    """What a call costs is shared by those of all cuts."""
    spans = {}
    for policy in POLICIES:
        with server(policy, batching=Batching(max_batch=16)) as served:
            for i in range(120):
                served.ask(i % DEPTH, 0.2 * i)
            spans[policy] = max(at for at, _ in served.finish().values())
    assert spans["joining"] <= 1.05 * spans["slices"]
    assert spans["joining"] < 0.9 * spans["tails"]
