"""Requests outlive their peers: answered on a standby or on a new plan, and the swarm is whole again."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm import answering, healing, host, negotiation, pace, route
from swarm.batching import Batching
from swarm.errors import Declined, NoFit, PeerLost
from swarm.holdings import together
from swarm.plan import Candidate, Goal, Part, Plan
from swarm.transport import Call, Reply
from tests.toy import Node, Swarm, agree, chain_of, session_of, swarm_of

WHOLE = [[1112.0] * 4]


def ones() -> Any:
    return np.ones((1, 4), np.float32)


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def users(vit: Any) -> list[str]:
    return [step.peers[0] for step in vit.plan.steps]


@pytest.fixture
def stuck() -> Any:
    """Holds a worker until it is set; never for ever."""
    go = threading.Event()
    yield go
    go.set()


def holds(go: threading.Event) -> Callable[[Part], None]:
    def wait(part: Part) -> None:
        go.wait(10)

    return wait


async def test_a_request_whose_peer_is_lost_is_answered_by_a_new_plan(tmp_path: Path, stuck: threading.Event) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:
        swarm = Swarm(me, ant, bee, cat)
        async with session_of(swarm) as vit:
            assert users(vit) == ["ant", "bee"]
            bee.workshop.before_run = holds(stuck)
            asked = [asyncio.create_task(vit(ones())) for _ in range(5)]
            await eventually(lambda: bee.holdings.batcher._running)
            await bee.die()
            swarm.change(gone=[bee])
            results = await asyncio.gather(*asked)
            assert [result.output.tolist() for result in results] == [WHOLE] * 5
            assert {result.attempts for result in results} == {2}
            assert users(vit) == ["ant", "cat"]
            stuck.set()
        assert not ant.host._leases
        assert not cat.host._leases


async def test_the_loss_is_noticed_without_a_request(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:
        swarm = Swarm(me, ant, bee, cat)
        async with session_of(swarm) as vit:
            await bee.die()
            swarm.change(gone=[bee])
            await eventually(lambda: users(vit) == ["ant", "cat"])
            assert (await vit(ones())).attempts == 1


async def test_what_is_missing_comes_from_survivors_weights(tmp_path: Path) -> None:
    """The requester's own copy is gone: the plan is mended all the same."""
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:
        swarm = Swarm(me, ant, bee, cat, width=3)
        async with session_of(swarm) as vit:
            for other in (ant, bee, cat):
                await asyncio.to_thread(other.own_weights)
            await asyncio.to_thread(shutil.rmtree, tmp_path / "me")
            swarm.width = 2
            await cat.die()
            swarm.change(gone=[cat])
            await eventually(lambda: users(vit) == ["ant", "bee"])
            assert (await vit(ones())).output.tolist() == WHOLE


async def test_a_standby_answers_at_once_and_is_replaced(tmp_path: Path) -> None:
    names = ("me", "ant", "bee", "cat", "dog", "eel", "fox")
    async with swarm_of(tmp_path, *names) as [me, *others]:
        swarm = Swarm(me, *others)
        async with session_of(swarm, Goal("survive", survive=1)) as vit:
            assert {node.id for node in others if node.host._leases} == {"ant", "bee", "cat", "dog"}
            ant, *_ = others
            await ant.die()
            swarm.change(gone=[ant])
            result = await vit(ones())
            assert [row.peer for row in result.trace] in (["cat", "dog"], ["bee", "cat"])
            await eventually(lambda: users(vit) == ["bee", "cat"])
            await eventually(lambda: {n.id for n in others[1:] if n.host._leases} == {"bee", "cat", "dog", "eel"})


async def test_a_goal_of_survivors_that_cannot_be_met_is_refused(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session_of(Swarm(me, ant, bee), Goal("survive", survive=1)):
                pass
        assert caught.group_contains(NoFit)


async def test_a_straggler_is_found_and_the_request_is_asked_elsewhere(
    tmp_path: Path, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alive, connected, and does not compute: slow is not dead, but a request need not wait for it."""
    monkeypatch.setattr(pace, "FIRST_GRACE_S", 0.3)
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:
        swarm = Swarm(me, ant, bee, cat)
        real_choose = swarm.choose

        def wary(name: str, model: Any, view: Any, goal: Any) -> Any:
            slow = [r.id for r in view.hosts() if r.profile.flops_per_s.get("float32", 1.0) < 1.0]
            swarm.fast = {cat.id} if slow else set()
            return real_choose(name, model, view, goal)

        swarm.choose = wary  # type: ignore[method-assign]
        async with session_of(swarm) as vit:
            bee.workshop.before_run = holds(stuck)
            view = swarm.view

            def measured() -> Any:
                return _with_rates(view(), 1.0)

            swarm.view = measured  # type: ignore[method-assign]
            vit._healer._view = measured
            result = await vit(ones())
            assert (result.output.tolist(), result.attempts) == (WHOLE, 2)
            assert [row.peer for row in result.trace] == ["cat", "ant"]
            stuck.set()


def _with_rates(view: Any, rate: float) -> Any:
    peers = tuple(
        replace(p, record=replace(p.record, profile=replace(p.record.profile, flops_per_s={"float32": rate})))
        for p in view.peers
    )
    return replace(view, peers=peers)


async def test_who_joins_in_mid_run_disturbs_nothing_and_is_used_when_that_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "SETTLE_S", 0.1)
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat", "dog") as [me, ant, bee, cat, dog]:
        swarm = Swarm(me, ant, bee)
        async with session_of(swarm) as vit:
            attempts: list[int] = []
            over = asyncio.Event()

            async def ask() -> None:
                while not over.is_set():
                    result = await vit(ones())
                    assert result.output.tolist() == WHOLE
                    attempts.append(result.attempts)

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            swarm.change(joined=[cat])
            await asyncio.sleep(0.5)
            assert users(vit) == ["ant", "bee"], "no better, so it stays"
            swarm.fast = {cat.id, dog.id}
            swarm.change(joined=[dog])
            await eventually(lambda: users(vit) == ["cat", "dog"])
            await asyncio.sleep(0.2)
            over.set()
            await asyncio.gather(*asking)
            assert set(attempts) == {1}
            await eventually(lambda: not ant.host._leases and not bee.host._leases)


async def test_a_peer_that_accepts_and_never_gets_ready_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiation, "STALL_S", 0.5)
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:

        async def never(_caller: object, _call: Call) -> Reply:
            await asyncio.sleep(3600)
            return Reply()

        ant.router._routes["commit"] = (never, ant.router._routes["commit"][1])
        async with session_of(Swarm(me, ant, bee, cat)) as vit:
            assert users(vit) == ["bee", "cat"]
            assert not ant.host._leases, "it was told that nobody waits any more"
            assert "ant" in vit._healer._order.doubts._lost


async def test_a_peer_that_dies_while_it_loads_is_left_out_and_not_trusted_again_at_once(tmp_path: Path) -> None:
    """As one that says it has memory, takes its part, and is killed by the system."""
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:

        async def dies(_caller: object, _call: Call) -> Reply:
            await ant.die()
            return Reply()

        ant.router._routes["commit"] = (dies, ant.router._routes["commit"][1])
        async with session_of(Swarm(me, ant, bee, cat)) as vit:
            assert users(vit) == ["bee", "cat"]
            assert (await vit(ones())).output.tolist() == WHOLE
            assert ant.id in vit._healer._order.doubts._lost


async def test_a_decline_corrects_the_view_and_that_peer_takes_less(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", bee=32) as [me, ant, bee]:
        swarm = Swarm(me, ant, bee)
        seen: list[int] = []

        def choose(name: str, model: Any, view: Any, goal: Any) -> Any:
            free = view.find(bee.id).profile.memory_free_bytes
            seen.append(free)
            plan = chain_of(me, ant, bee, cuts=[0, 1, 4] if free >= 48 else [0, 2, 4])
            return Candidate("toy", replace(plan, estimate=swarm.predict(plan, model, view)))

        swarm.choose = choose  # type: ignore[method-assign]
        async with session_of(swarm) as vit:
            assert users(vit) == ["ant", "bee"]
        assert seen[0] > 10**6
        assert 32 in seen


async def test_two_requesters_that_want_the_same_parts_share_them(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "you", "ant", "bee", ant=64, bee=64) as [me, you, ant, bee]:

        async def one(node: Node, name: str) -> Plan:
            return await agree(node, chain_of(node, ant, bee, cuts=[0, 2, 4], plan_id=name), ant, bee)

        await asyncio.gather(one(me, "one"), one(you, "two"))
        assert len(ant.holdings.names) == 1, "both need the same parts, which are shared"
        assert ant.holdings.free_bytes == 32


async def test_of_two_requesters_one_gets_what_there_is_and_the_other_hears_so(tmp_path: Path) -> None:
    """Each peer has room for one of the two plans; nobody waits for ever, nobody gets more than there is."""
    async with swarm_of(tmp_path, "me", "you", "ant", "bee", ant=32, bee=32) as [me, you, ant, bee]:
        await asyncio.to_thread(you.own_weights)

        async def one(node: Node, name: str, *nodes: Node) -> str:
            try:
                await agree(node, chain_of(node, *nodes, cuts=[0, 2, 4], plan_id=name), ant, bee)
            except Declined as declined:
                return str(declined)
            return "agreed"

        outcomes = await asyncio.gather(one(me, "one", ant, bee), one(you, "two", bee, ant))
        assert outcomes.count("agreed") == 1
        assert "MB free" in next(outcome for outcome in outcomes if outcome != "agreed")
        for node in (ant, bee):
            assert sum(together(node.host._promised().values()).values()) <= 32


async def test_an_overloaded_peer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "OVERLOADED_S", 0.05)
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee], session_of(Swarm(me, ant, bee)) as vit:
        ant.holdings.batcher._queue.batching = Batching(max_waiting=0)
        asking = asyncio.create_task(vit(ones()))
        await asyncio.sleep(0.3)
        assert not asking.done()
        ant.holdings.batcher._queue.batching = Batching()
        result = await asking
        assert result.output.tolist() == WHOLE
        assert result.attempts > 1


async def test_many_requests_while_peers_die_and_come_back(tmp_path: Path) -> None:
    """None lost, none wrong."""
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat", "dog") as [me, *others]:
        swarm = Swarm(me, *others)
        async with session_of(swarm) as vit:
            over = asyncio.Event()
            answered = 0

            async def ask() -> None:
                nonlocal answered
                while not over.is_set():
                    result = await vit(ones(), deadline_s=20)
                    assert result.output.tolist() == WHOLE
                    answered += 1

            asking = [asyncio.create_task(ask()) for _ in range(8)]
            for victim in others[:3]:
                before = answered
                await eventually(lambda before=before: answered > before + 20)  # type: ignore[misc]
                await victim.die()
                swarm.change(gone=[victim])
            before = answered
            await eventually(lambda: answered > before + 20)
            over.set()
            await asyncio.gather(*asking)


async def test_closing_ends_requests_under_way_at_once_and_says_so(tmp_path: Path, stuck: threading.Event) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        async with session_of(Swarm(me, ant, bee)) as vit:
            bee.workshop.before_run = holds(stuck)
            asked = [asyncio.create_task(vit(ones())) for _ in range(3)]
            await eventually(lambda: bee.holdings.batcher._running)
            await vit.aclose()
            async with asyncio.timeout(5):
                ended = await asyncio.gather(*asked, return_exceptions=True)
            stuck.set()
        assert all("session was closed" in str(error) for error in ended), ended
        assert all(isinstance(error, PeerLost) for error in ended), "a server's client may ask another server"


async def test_what_is_broken_does_not_wait_for_a_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer is asked how fast it is and does not say; meanwhile somebody dies."""
    monkeypatch.setattr(healing, "SETTLE_S", 0.0)
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat", "dog") as [me, ant, bee, cat, dog]:
        swarm, asked = Swarm(me, ant, bee, cat), asyncio.Event()

        async def never(_caller: object, _call: Call) -> Reply:
            asked.set()
            await asyncio.sleep(3600)
            return Reply()

        dog.router._routes["timings"] = (never, dog.router._routes["timings"][1])
        async with session_of(swarm) as vit:
            swarm.change(joined=[dog])
            await asked.wait()
            await bee.die()
            swarm.change(gone=[bee])
            await eventually(lambda: users(vit) == ["ant", "cat"])
            assert (await vit(ones())).output.tolist() == WHOLE


async def test_with_too_few_left_for_a_standby_the_session_goes_on_without(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        swarm = Swarm(me, ant, bee, width=1)
        async with session_of(swarm, Goal("survive", survive=1)) as vit:
            assert len(vit._healer.routes.plans) == 2
            await ant.die()
            swarm.change(gone=[ant])
            assert (await vit(ones())).output.tolist() == WHOLE
            await eventually(lambda: [plan.peers() for plan in vit._healer.routes.plans] == [("bee",)])
            assert (await vit(ones())).output.tolist() == WHOLE


async def test_a_large_batch_is_no_straggler(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee], session_of(Swarm(me, ant, bee)) as vit:
        for _ in range(20):
            await vit(ones())
        ant.workshop.before_run = lambda part: time.sleep(0.5)
        result = await vit(np.ones((64, 4), np.float32))
        assert result.attempts == 1
        assert not vit._healer._order.doubts._slow


async def test_a_peer_that_fails_its_part_is_left_for_another(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat") as [me, ant, bee, cat]:

        def broken(part: Part) -> None:
            raise RuntimeError("out of memory")

        async with session_of(Swarm(me, ant, bee, cat)) as vit:
            bee.workshop.before_run = broken
            result = await vit(ones())
            assert (result.output.tolist(), result.attempts) == (WHOLE, 2)
            assert users(vit) == ["ant", "cat"]


async def test_requests_on_a_plan_that_was_left_end_there_and_its_leases_are_kept(
    tmp_path: Path, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (host, route):
        monkeypatch.setattr(module, "LEASE_S", 1.0)
    monkeypatch.setattr(healing, "SETTLE_S", 0.0)
    monkeypatch.setattr(pace, "FIRST_GRACE_S", 60.0)  # it is not to be looked for
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat", "dog") as [me, ant, bee, cat, dog]:
        swarm = Swarm(me, ant, bee, cat)
        async with session_of(swarm) as vit:
            bee.workshop.before_run = holds(stuck)
            asked = asyncio.create_task(vit(ones()))
            await eventually(lambda: bee.holdings.batcher._running)
            swarm.fast = {cat.id, dog.id}
            swarm.change(joined=[dog])
            await eventually(lambda: users(vit) == ["cat", "dog"])
            await asyncio.sleep(2.5)  # longer than a lease
            assert bee.host._leases
            stuck.set()
            assert (await asked).output.tolist() == WHOLE
            await eventually(lambda: not bee.host._leases)
