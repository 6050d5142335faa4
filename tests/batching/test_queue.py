"""Who is let in, who has to make room, who is too late; and what a curve makes of the batches that ran."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from swarm.batching.curve import Curves
from swarm.batching.jobs import Job, Ran
from swarm.batching.queue import MARGIN, Batching, Queue
from swarm.errors import DeadlineExceeded, Overloaded, TooLate


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Jobs:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, requester: str = "a", rows: int = 1, deadline: float = 100.0, arrived: float = 0.0) -> Job:
        done: asyncio.Future[Ran] = self._loop.create_future()
        return Job("p", "m", requester, np.zeros((rows, 1)), deadline, arrived, done, ("s",))


@pytest.fixture
def job(loop: asyncio.AbstractEventLoop) -> Jobs:
    return Jobs(loop)


def known(queue: Queue, row_s: float = 1.0, most: int = 1) -> None:
    for rows in (1, 1, 1):
        queue.curves("m").took("s", rows, row_s * rows)


def test_a_full_queue_refuses_and_says_when_to_ask_again(job: Jobs) -> None:
    queue = Queue(Batching(max_waiting=2), "attic-pi")
    known(queue)
    for _ in range(2):
        queue.add(job(), 0.0)
    with pytest.raises(Overloaded, match="attic-pi has 2 requests waiting") as caught:
        queue.add(job(), 0.0)
    assert caught.value.retry_after_s == pytest.approx(1.0)
    assert len(queue) == 2


def test_the_greediest_makes_room_for_another(job: Jobs) -> None:
    queue = Queue(Batching(max_waiting=4), "attic-pi")
    greedy = [job("greedy", arrived=float(i)) for i in range(4)]
    for one in greedy:
        queue.add(one, 0.0)
    modest = job("modest")
    [(victim, error)] = queue.add(modest, 0.0)
    assert victim is greedy[-1], "its youngest"
    assert isinstance(error, Overloaded)
    assert len(queue) == 4
    with pytest.raises(Overloaded):
        queue.add(job("greedy"), 0.0)


def test_who_could_not_be_answered_in_time_is_not_let_in(job: Jobs) -> None:
    queue = Queue(Batching(), "attic-pi")
    known(queue)
    for _ in range(5):
        queue.add(job(), 0.0)
    with pytest.raises(TooLate, match="work for 5 s") as caught:
        queue.add(job(deadline=5.5), 0.0)
    assert caught.value.retry_after_s == pytest.approx(6 * MARGIN - 5.5)
    queue.add(job(deadline=6 * MARGIN + 0.1), 0.0)


def test_nobody_waits_longer_than_the_bound(job: Jobs) -> None:
    queue = Queue(Batching(max_wait_s=2.5), "attic-pi")
    known(queue)
    for _ in range(3):
        queue.add(job(), 0.0)
    with pytest.raises(Overloaded, match="3 s before this request"):
        queue.add(job(), 0.0)


def test_before_anything_ran_everybody_is_let_in(job: Jobs) -> None:
    queue = Queue(Batching(max_wait_s=0.001), "attic-pi")
    for _ in range(10):
        queue.add(job(deadline=0.1), 0.0)
    assert len(queue) == 10


def test_the_late_are_taken_out(job: Jobs) -> None:
    queue = Queue(Batching(), "attic-pi")
    late, patient = job(deadline=1.0), job(deadline=50.0)
    queue.add(late, 0.0)
    queue.add(patient, 0.0)
    assert queue.drop_late(0.5) == []
    [(dropped, error)] = queue.drop_late(1.5)
    assert dropped is late
    assert isinstance(error, DeadlineExceeded)
    assert queue.groups()[0].jobs == [patient]
    assert queue.drop_late(40.0) == []
    assert [dropped for dropped, _ in queue.drop_late(51.0)] == [patient]
    assert queue.wait_s() == 0


def test_who_gives_up_leaves_no_work_behind(job: Jobs) -> None:
    queue = Queue(Batching(), "attic-pi")
    known(queue)
    one = job()
    queue.add(one, 0.0)
    assert queue.wait_s() == 1
    assert queue.remove(one)
    assert not queue.remove(one)
    assert queue.wait_s() == 0
    assert not len(queue)


def test_rows_of_another_shape_stand_in_another_batch(job: Jobs) -> None:
    queue = Queue(Batching(max_batch=8), "attic-pi")
    for rows in (1, 8) * 3:
        queue.curves("m").took("s", rows, 1.0)
    other = job()
    other.x = np.zeros((1, 2))
    for one in (job(), other, job()):
        queue.add(one, 0.0)
    assert [len(queue.board("s", [])) for _ in range(2)] == [2, 1]


def run(curve: Curves, seconds: dict[int, float], batches: int) -> int:
    """Batches as large as the curve wants them; the limit in the end."""
    for _ in range(batches):
        rows = curve.limit(1000)
        curve.took("s", rows, seconds[rows])
    return curve._limit


def test_a_batch_grows_while_that_pays() -> None:
    assert run(Curves(64), {size: 1.0 + 0.1 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 30) == 64
    assert run(Curves(16), {size: 1.0 + 0.1 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 30) == 16


def test_a_batch_stays_small_where_it_gains_nothing() -> None:
    assert run(Curves(64), {size: 0.1 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 20) == 1
    assert Curves(64).limit(1) == 1


def test_the_best_size_may_lie_in_the_middle() -> None:
    seconds = {1: 1.0, 2: 1.2, 4: 1.6, 8: 2.4, 16: 6.0, 32: 14.0, 64: 30.0}
    assert run(Curves(64), seconds, 50) == 8


def test_a_measurement_that_met_a_busy_machine_is_made_again() -> None:
    curve = Curves(64)
    for rows, seconds in ((1, 1.0), (2, 9.0)):
        for _ in range(3):
            curve.took("s", rows, seconds)
    assert curve.limit(2) == 1
    assert run(curve, {size: 1.0 + 0.1 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 200) == 64


def test_work_is_foreseen_from_the_nearest_known_size() -> None:
    curve = Curves(64)
    assert curve.work_s("s", 5) == 0
    run(curve, {size: 1.0 + 0.1 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 30)
    assert curve.work_s("s", 2) == pytest.approx(1.2)
    assert curve.work_s("s", 64) == pytest.approx(7.4)
    assert curve.work_s("s", 128) == pytest.approx(14.8)


def test_half_of_all_is_taken_where_a_row_costs_about_the_same() -> None:
    curve = Curves(64)
    assert curve.share(10) == 10
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(3):
            curve.took("s", size, 1.0 + 0.2 * size)
    assert curve.share(64) == 32, "6.9 % more for a row"
    assert curve.share(63) == 32
    assert curve.share(8) == 8, "38 % more"
    assert curve.share(32, away=32) == 32, "they come back while these run"
    assert curve.share(42, away=22) == 32


def test_the_worker_is_left_something_to_go_on_with(job: Jobs) -> None:
    queue = Queue(Batching(), "attic-pi")
    for size in (8, 16) * 3:
        queue.curves("m").took("s", size, 0.1 * size)
    for _ in range(16):
        queue.add(job(), 0.0)
    assert len(queue.board("s", [])) == 8
    assert len(queue) == 8


def test_slices_of_one_model_have_one_limit() -> None:
    """One that sees no gain in large batches does not hold up those that do, nor the other way round."""
    curves = Curves(16)
    for _ in range(5):
        for size in (1, 2, 4, 8, 16):
            curves.took("gains", size, 1.0 + 0.1 * size)
            curves.took("gains nothing", size, 0.1 * size)
    assert curves.limit(0) == 16
    for _ in range(600):
        curves.took("gains nothing", 1, 0.1)
    assert curves.limit(0) == 1, "the other one is not there any more"


def test_a_slice_that_never_meets_many_rows_has_no_say() -> None:
    curves = Curves(64)
    for _ in range(5):
        for size in (1, 2, 4, 8, 16, 32, 64):
            curves.took("tail", size, 1.0 + 0.1 * size)
    for _ in range(50):
        curves.took("head of one client", 1, 0.5)
        curves.took("tail", 64, 7.4)
    assert curves.limit(100) == 64


def test_the_largest_size_need_not_be_a_power_of_two() -> None:
    assert run(Curves(48), {size: 1.0 + 0.1 * size for size in (1, 2, 4, 8, 16, 32, 48)}, 30) == 48
    assert run(Curves(48), {size: 0.1 * size for size in (1, 2, 4, 8, 16, 32, 48)}, 30) == 1
