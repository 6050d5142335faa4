"""The way of a request over a swarm in memory: where it goes, and every way in which it can end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from swarm import dataflow, tensors
from swarm.batching import Batching
from swarm.errors import BadInput, DeadlineExceeded, MalformedFrame, Overloaded, PeerLost, SwarmError
from swarm.plan import Part, Plan
from tests.toy import Node, agree, chain_of, swarm_of


def ones(rows: int = 1) -> Any:
    return np.ones((rows, 4), np.float32)


async def loaded(me: Node, *nodes: Node, **more: Any) -> Plan:
    plan = chain_of(me, *nodes, **more)
    me.dataflow.install(plan)
    return await agree(me, plan, *nodes)


def held(go: threading.Event) -> Callable[[Part], None]:
    """The worker waits for `go` before it runs anything."""

    def wait(part: Part) -> None:
        assert go.wait(10)

    return wait


def soon(seconds: float = 10) -> float:
    return monotonic() + seconds


async def test_a_request_goes_along_the_chain_and_the_answer_tells_of_each_step(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await loaded(me, me, ant, bee)
        outcome = await me.dataflow.ask(plan, ones(3), soon())
        assert outcome.output.tolist() == (ones(3) + 1111).tolist()
        assert [(row.step, row.peer, row.bytes) for row in outcome.trace] == [
            ("0", "me", 48),
            ("1", "ant", 48),
            ("2", "bee", 48),
        ]
        assert outcome.answer_bytes == 48
        pairs = {(channel.remote.id, channel.purpose) for channel in ant.links.channels()}
        assert pairs >= {("bee", "tensors")}, "ant hands its output straight to bee"


async def test_many_requests_at_once_keep_their_own_answers(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await loaded(me, ant, bee)
        inputs = [np.full((1 + i % 3, 4), i, np.float32) for i in range(60)]
        outcomes = await asyncio.gather(*(me.dataflow.ask(plan, x, soon()) for x in inputs))
        for x, outcome in zip(inputs, outcomes, strict=True):
            np.testing.assert_array_equal(outcome.output, x + 1111)


async def test_the_wire_dtype_is_the_plans(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant, wire="float16")
        outcome = await me.dataflow.ask(plan, ones(), soon())
        assert outcome.output.dtype == np.float32
        assert (outcome.output.tolist(), outcome.answer_bytes) == ([[1112] * 4], 8)


@pytest.mark.parametrize("x", [np.ones((1, 5)), np.ones((0, 4)), np.ones((65, 4)), np.float32(1)])
async def test_a_wrong_shape_is_refused_before_it_travels(tmp_path: Path, x: Any) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        with pytest.raises(BadInput, match=r"shape|samples"):
            await me.dataflow.ask(plan, np.asarray(x, np.float32), soon())


async def test_what_a_step_raises_reaches_the_requester(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await loaded(me, ant, bee)

        def refuse(part: object) -> None:
            raise BadInput("The bee does not like this picture.")

        bee.workshop.before_run = refuse
        with pytest.raises(BadInput, match="does not like"):
            await me.dataflow.ask(plan, ones(), soon())
        bee.workshop.before_run = lambda part: None
        assert (await me.dataflow.ask(plan, ones(), soon())).output.tolist() == [[1112] * 4]


async def test_a_deadline_ends_the_wait_and_clears_every_queue(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        first = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded, match="--deadline"):
            await me.dataflow.ask(plan, ones(), soon(0.2))
        async with asyncio.timeout(5):
            while ant.holdings.batcher.queued:
                await asyncio.sleep(0.01)
        go.set()
        assert (await first).output.tolist() == [[1112] * 4]
        assert not me.dataflow._requests._pending


async def test_cancelling_the_caller_cancels_at_the_peers(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        first = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        async with asyncio.timeout(5):
            while not ant.holdings.batcher.queued:
                await asyncio.sleep(0.01)
        second.cancel()
        async with asyncio.timeout(5):
            while ant.holdings.batcher.queued:
                await asyncio.sleep(0.01)
        go.set()
        assert (await first).output.tolist() == [[1112] * 4], "the other request goes on"
        assert second.cancelled()


async def test_a_lost_peer_ends_the_request_with_its_name(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        request = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.05)
        me.dataflow.lost(ant.id, "ant")
        with pytest.raises(PeerLost, match="ant"):
            await request
        go.set()


async def test_strangers_and_liars_cannot_put_tensors_into_a_plan(tmp_path: Path) -> None:
    """Refused before a byte is taken: the sender, the edge, the shape, the dtype and the size must be the plan's."""
    async with swarm_of(tmp_path, "me", "ant", "eve") as [me, ant, eve]:
        plan = await loaded(me, ant)
        head, body = tensors.encode(ones(), "float32")
        right = {"plan": "plan", "request": 1, "source": "input", "target": "0", "sent_s": 0.0, "tensor": head}
        honest, liar = await me.links.get(ant.id, "tensors", 5), await eve.links.get(ant.id, "tensors", 5)
        remote = next(c for c in ant.links.channels() if c.remote.id == me.id and c.purpose == "tensors")
        ant.dataflow._admit(remote, right, 16)
        wrong = [
            right | {"plan": "other"},
            right | {"target": "1"},
            right | {"tensor": head | {"shape": [2, 5]}},
            right | {"tensor": head | {"shape": [2, 4]}},
            right | {"tensor": head | {"shape": [10**9, 4]}},
            right | {"tensor": head | {"wire": "float16"}},
            right | {"request": -1},
            right | {"tensor": "?"},
        ]
        for fields in wrong:
            with pytest.raises(SwarmError):
                ant.dataflow._admit(remote, fields, 16)
            with pytest.raises(SwarmError):
                await honest.request("tensor", fields, body, timeout_s=5)
        with pytest.raises(MalformedFrame, match="edge"):
            await liar.request("tensor", right, body, timeout_s=5)
        answer = right | {"source": "0", "target": "output", "request": 99}
        back = await me.links.get(ant.id, "tensors", 5)
        with pytest.raises(MalformedFrame, match="not asked"):
            me.dataflow._admit(back, answer, 16)
        assert (await me.dataflow.ask(plan, ones(), soon())).output.tolist() == [[1112] * 4], "ant serves on"


async def test_a_plan_that_was_let_go_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        ant.dataflow.remove(plan.id)
        with pytest.raises(SwarmError, match="ant does not hold this plan any more"):
            await me.dataflow.ask(plan, ones(), soon())


async def test_a_refusal_further_down_reaches_the_requester_at_once(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await loaded(me, ant, bee)
        bee.dataflow.remove(plan.id)
        with pytest.raises(SwarmError, match="bee does not hold this plan any more"):
            await me.dataflow.ask(plan, ones(), soon())


async def test_what_one_requester_may_have_waiting_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "MAX_HELD_BYTES", 2 * dataflow.OVERHEAD_BYTES)
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        requests = [asyncio.create_task(me.dataflow.ask(plan, ones(), soon())) for _ in range(4)]
        done, waiting = await asyncio.wait(requests, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        assert isinstance(next(iter(done)).exception(), Overloaded)
        go.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            while ant.dataflow._underway.held_bytes:
                await asyncio.sleep(0.01)
        assert (await me.dataflow.ask(plan, ones(), soon())).output.tolist() == [[1112] * 4]


async def test_a_tensor_lost_with_its_connection_is_sent_again(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        channel = await me.links.get(ant.id, "tensors", 5)
        channel._mover.write = lambda data: channel._mover.abort()  # type: ignore[union-attr, method-assign]
        assert (await me.dataflow.ask(plan, ones(), soon())).output.tolist() == [[1112] * 4]


async def test_closing_a_session_ends_its_requests(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        request = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.05)
        me.dataflow.remove(plan.id)
        with pytest.raises(PeerLost, match="session was closed"):
            await request
        go.set()


async def test_only_the_requester_may_cancel(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "eve") as [me, ant, eve]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        request = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.05)
        await eve.exchange.notify(ant.id, "cancel", {"plan": plan.id, "request": 1}, timeout_s=5)
        await eve.exchange.notify(
            me.id, "failed", {"plan": plan.id, "request": 1, "code": "x", "sentence": "x"}, timeout_s=5
        )
        await asyncio.sleep(0.05)
        go.set()
        assert (await request).output.tolist() == [[1112] * 4]


async def test_two_plans_do_not_mix(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        one = await loaded(me, ant, bee, plan_id="one")
        other = await loaded(me, bee, ant, plan_id="two")
        assert replace(one, id="two") != other
        results = await asyncio.gather(*(me.dataflow.ask(plan, ones(), soon()) for plan in (one, other) * 5))
        assert all(outcome.output.tolist() == [[1112] * 4] for outcome in results)


@pytest.mark.parametrize(
    ("x", "wire"), [(np.ones((1, 4), np.float16), "float16"), (np.ones((1, 4), np.uint8), "float32")]
)
async def test_a_dtype_that_the_plan_does_not_know_never_reaches_a_batch(tmp_path: Path, x: Any, wire: str) -> None:
    """It would fail there with the rows of all who share it."""
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, me, ant, cuts=[0, 2, 4], wire=wire)
        edge = next(edge for edge in plan.edges if edge.receiver == ant.id)
        work = me.dataflow.whereabouts.begin(plan.id, "0", 1)
        with pytest.raises(MalformedFrame, match="not as the plan agreed"):
            await me.dataflow._sending.to_all(plan, [edge], 1, x, (), soon(), work)


async def test_a_step_that_is_cancelled_as_it_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await loaded(me, ant, bee)
        spawn = ant.dataflow._spawn

        def cancelled_at_once(*work: Any) -> asyncio.Task[None] | None:
            task = spawn(*work)
            if task is not None:
                task.cancel()
            return task

        ant.dataflow._spawn = cancelled_at_once  # type: ignore[assignment, method-assign]
        with pytest.raises(DeadlineExceeded):
            await me.dataflow.ask(plan, ones(), soon(0.3))
        assert ant.dataflow.whereabouts.longest(plan.id) is None
        assert not ant.dataflow._underway.held_bytes


async def test_who_is_refused_hears_it_at_once_and_with_a_hint(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = await loaded(me, ant)
        go = threading.Event()
        ant.workshop.before_run = held(go)
        ant.holdings.batcher._queue.batching = Batching(max_waiting=1)
        running = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(me.dataflow.ask(plan, ones(), soon()))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="ant has 1 requests waiting") as caught:
            await me.dataflow.ask(plan, ones(), soon())
        assert caught.value.retry_after_s > 0
        go.set()
        await asyncio.gather(running, waiting)
        assert ant.dataflow.metrics.refused == {("toy", "overloaded"): 1}
