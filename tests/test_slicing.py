"""Parts that overlap are sliced so that they share what they have in common, and give the same answers."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from time import monotonic

import numpy as np

from swarm.plan import INPUT, OUTPUT, Part, weights_digest
from swarm.slicing import slices_of
from tests.toy import DIGESTS, PROFILE, Node, ToyBlueprint, agree, chain_of, digests_of, swarm_of

BLUEPRINT = ToyBlueprint()
WHOLE = Part("toy", PROFILE.digest)


def part(start: str = INPUT, end: str = OUTPUT) -> Part:
    bare = Part("toy", PROFILE.digest, start, end)
    return Part("toy", PROFILE.digest, start, end, weights_digest(digests_of(bare)))


def spans(of: Part, *others: Part) -> list[tuple[str, str]]:
    return [(piece.start, piece.end) for piece in slices_of(BLUEPRINT, of, DIGESTS, others)]


def test_a_part_alone_is_its_own_slice() -> None:
    whole = part()
    assert slices_of(BLUEPRINT, whole, DIGESTS, [whole]) == (whole,)
    assert slices_of(BLUEPRINT, whole, DIGESTS, [Part("other", "e" * 64, "a", "b")]) == (whole,)


def test_where_one_begins_or_ends_the_others_are_sliced() -> None:
    whole, tail, middle = part(), part("b"), part("a", "c")
    assert spans(whole, whole, tail, middle) == [(INPUT, "a"), ("a", "b"), ("b", "c"), ("c", OUTPUT)]
    assert spans(tail, whole, tail, middle) == [("b", "c"), ("c", OUTPUT)]
    assert spans(middle, whole, tail, middle) == [("a", "b"), ("b", "c")]


def test_equal_slices_of_two_parts_are_one() -> None:
    whole, tail = part(), part("b")
    keys = [{piece.key for piece in slices_of(BLUEPRINT, one, DIGESTS, [whole, tail])} for one in (whole, tail)]
    assert keys[0] & keys[1] == {tail.key}


async def test_clients_with_different_cuts_share_batches_on_one_copy(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "you", "ant") as [me, you, ant]:
        await asyncio.to_thread(you.own_weights)

        async def loaded(node: Node, cut: int) -> None:
            plan = await agree(node, chain_of(node, node, ant, cuts=[0, cut, 4], plan_id=f"{node.id} {cut}"), ant)
            node.dataflow.install(plan)
            plans[node.id, cut] = plan

        plans: dict[tuple[str, int], object] = {}
        for cut in (1, 2, 3):
            await loaded(me, cut)
        await loaded(you, 2)
        assert ant.holdings.free_bytes < 10**12
        ends = sorted((piece.part.start, piece.part.end) for piece in ant.holdings._slices.values())
        assert ends == [("a", "b"), ("b", "c"), ("c", OUTPUT)], "those that were whole at first are gone"
        for key in ant.holdings._slices:  # as if it were known that large batches pay
            for rows in (1, 64) * 3:
                ant.holdings.batcher._queue.curves(PROFILE.digest).took(key, rows, 1e-6)
        ran: list[tuple[str, str]] = []
        began = threading.Event()
        go = threading.Event()

        def note(piece: Part) -> None:
            ran.append((piece.start, piece.end))
            began.set()
            assert go.wait(10)

        ant.workshop.before_run = note
        x = np.ones((1, 4), np.float32)

        def ask(node: Node, cut: int) -> asyncio.Task[object]:
            return asyncio.create_task(node.dataflow.ask(plans[node.id, cut], x, monotonic() + 10))  # type: ignore[arg-type]

        first = ask(me, 1)
        await asyncio.to_thread(began.wait, 10)
        others = [ask(me, 2), ask(me, 3), ask(you, 2)]
        async with asyncio.timeout(10):
            while ant.holdings.batcher.queued < 3:
                await asyncio.sleep(0.01)
        go.set()
        outcomes = await asyncio.gather(first, *others)
        assert [outcome.output.tolist() for outcome in outcomes] == [[[1112.0] * 4]] * 4  # type: ignore[attr-defined]
        assert ran == [("a", "b"), ("b", "c"), ("c", OUTPUT)], "one batch, which took in the others on its way"


async def test_tails_run_as_a_whole(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        ant.holdings.batcher.policy.is_sliced = False
        for cut in (1, 2):
            await agree(me, chain_of(me, me, ant, cuts=[0, cut, 4], plan_id=f"cut {cut}"), ant)
        ends = sorted((piece.part.start, piece.part.end) for piece in ant.holdings._slices.values())
        assert ends == [("a", OUTPUT), ("b", OUTPUT)]


async def test_a_part_that_goes_while_its_batch_runs_harms_nobody_else(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plans = {}
        for cut in (1, 2):
            plans[cut] = await agree(me, chain_of(me, me, ant, cuts=[0, cut, 4], plan_id=f"cut {cut}"), ant)
            me.dataflow.install(plans[cut])
        began, go = threading.Event(), threading.Event()

        def wait(piece: Part) -> None:
            began.set()
            assert go.wait(10)

        ant.workshop.before_run = wait
        x = np.ones((1, 4), np.float32)
        running, waiting = (asyncio.create_task(me.dataflow.ask(plans[cut], x, monotonic() + 10)) for cut in (1, 2))
        await asyncio.to_thread(began.wait, 10)
        gone = next(key for key, held in ant.holdings._held.items() if held.part.start == "a")
        ant.holdings._drop(gone)
        go.set()
        outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [outcome.output.tolist() for outcome in outcomes] == [[[1112.0] * 4]] * 2  # type: ignore[union-attr]
