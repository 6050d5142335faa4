"""Offers, leases and weights over a swarm in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from swarm import host, schema
from swarm.errors import Declined, PeerUnreachable, SwarmError, WeightsError
from swarm.negotiation import negotiate, release, renew
from swarm.plan import Answer, Edge, Plan
from swarm.transport import Call, Reply
from swarm.types import PeerId, TensorSpec, View
from tests.toy import DIGESTS, Node, agree, chain_of, offer_of, swarm_of, view_of


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LEASE_S", 2.0)


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def offered(me: Node, peer: Node, plan: Plan) -> Answer:
    reply = await me.exchange.request(peer.id, "offer", *offer_of(plan, peer.id), timeout_s=5)
    return schema.unpack(Answer, reply.fields)


async def test_each_peer_loads_only_its_own_part_and_pulls_only_its_own_tensors(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = await agree(me, chain_of(me, ant, bee), ant, bee)
        assert [node.holdings.names for node in (ant, bee)] == [(step.part.name,) for step in plan.steps]
        assert sorted(path.name for path in (tmp_path / "ant").iterdir()) == [DIGESTS["a.bias"]]
        assert sorted(path.name for path in (tmp_path / "bee").iterdir()) == sorted(
            DIGESTS[f"{name}.bias"] for name in ("b", "c", "output")
        )


async def test_a_peer_without_room_declines_with_the_numbers(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", bee=32) as [me, ant, bee]:
        with pytest.raises(Declined, match=r"bee has 0\.0 MB free .* --memory"):
            await agree(me, chain_of(me, ant, bee), ant, bee)
        assert ant.holdings.names == bee.holdings.names == ()
        assert not ant.host._leases, "what was accepted is given back"


async def test_after_a_decline_the_plan_is_made_again_without_that_peer(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee", "cat", bee=16) as [me, ant, bee, cat]:
        seen: list[list[str]] = []

        async def propose(view: View) -> list[Plan]:
            here = [record.id for record in view.alive() if record.id != "me"]
            seen.append(list(here))
            return [chain_of(me, *(node for node in (ant, bee, cat) if node.id in here[:2]))]

        [plan] = await negotiate(me.exchange, view_of(me, ant, bee, cat), propose, offer_of, timeout_s=10)
        assert seen == [["ant", "bee", "cat"], ["ant", "cat"]]
        assert [step.peers for step in plan.steps] == [("ant",), ("cat",)]


async def test_a_peer_that_cannot_be_reached_counts_as_a_refusal(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = replace(chain_of(me, ant), steps=(replace(chain_of(me, ant).steps[0], peers=(PeerId("ghost"),)),))
        with pytest.raises(PeerUnreachable, match="ghost"):
            await agree(me, plan, ant)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plan: replace(plan, requester=PeerId("bee")), "only from the peer that made it"),
        (lambda plan: replace(plan, steps=()), "has no step"),
        (lambda plan: replace(plan, edges=plan.edges[1:]), "one input"),
        (lambda plan: _with_part(plan, anatomy="e" * 64), "another anatomy"),
        (lambda plan: _with_part(plan, end="nowhere"), "no such cut"),
        (lambda plan: _with_part(plan, end="a"), "not those that its name stands for"),
        (lambda plan: _with_part(plan, weights="b" * 64), "not those that its name stands for"),
        (lambda plan: replace(plan, edges=tuple(_reshaped(edge) for edge in plan.edges)), "another shape"),
    ],
)
async def test_an_offer_that_makes_no_sense_is_declined_with_the_reason(
    tmp_path: Path, change: Any, reason: str
) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        fields, digests = offer_of(chain_of(me, ant), ant.id)
        fields["plan"] = schema.pack(change(chain_of(me, ant)))
        reply = await me.exchange.request(ant.id, "offer", fields, digests, timeout_s=5)
        answer = schema.unpack(Answer, reply.fields)
        assert not answer.accepted
        assert reason in answer.reason


def _with_part(plan: Plan, **change: Any) -> Plan:
    return replace(plan, steps=(replace(plan.steps[0], part=replace(plan.steps[0].part, **change)),))


def _reshaped(edge: Edge) -> Edge:
    return replace(edge, tensor=TensorSpec((5,)))


async def test_promises_count_before_anything_is_loaded(tmp_path: Path) -> None:
    """Two requesters cannot both be promised the same room; what both need counts once."""
    async with swarm_of(tmp_path, "me", "you", "ant", ant=48) as [me, you, ant]:
        assert (await offered(me, ant, chain_of(me, ant, me, cuts=[0, 3, 4]))).accepted
        same = chain_of(you, ant, you, cuts=[0, 3, 4], plan_id="same part")
        assert (await offered(you, ant, same)).accepted
        inside = chain_of(you, you, ant, you, cuts=[0, 1, 3, 4], plan_id="a piece of it")
        assert (await offered(you, ant, inside)).accepted
        assert ant.holdings.free_bytes == 0
        other = chain_of(you, you, ant, cuts=[0, 2, 4], plan_id="another part")
        assert not (await offered(you, ant, other)).accepted


async def test_two_plans_share_one_copy_of_a_part(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "you", "ant") as [me, you, ant]:
        await agree(me, chain_of(me, ant, plan_id="one"), ant)
        await agree(you, chain_of(you, ant, plan_id="two"), ant)
        assert len(ant.holdings.names) == 1
        assert len(ant.host._leases) == 2


@pytest.mark.usefixtures("short_leases")
async def test_a_lease_lapses_unless_it_is_renewed(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        kept = await agree(me, chain_of(me, ant, plan_id="kept"), ant)
        await agree(me, chain_of(me, ant, plan_id="dropped"), ant)
        ends = monotonic() + 4
        while monotonic() < ends:
            await renew(me.exchange, kept, 1)
            await asyncio.sleep(0.1)
        assert list(ant.host._leases) == ["kept"]
        assert list(ant.dataflow._ways) == ["kept"]


async def test_a_released_part_stays_warm_until_its_room_is_needed(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", ant=48) as [me, ant]:
        plan = await agree(me, chain_of(me, ant, me, cuts=[0, 2, 4], plan_id="one"), ant)
        await release(me.exchange, plan)
        assert ant.holdings.names == (plan.steps[0].part.name,)
        assert ant.holdings.free_bytes == 48
        plan = await agree(me, chain_of(me, me, ant, cuts=[0, 2, 4], plan_id="two"), ant)
        assert ant.holdings.names == (plan.steps[1].part.name,)


async def test_a_lost_requester_leaves_nothing_behind(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        await agree(me, chain_of(me, ant), ant)
        ant.host.lost(me.id)
        assert not ant.host._leases
        assert not ant.dataflow._ways
        with pytest.raises(SwarmError, match="no lease"):
            await me.exchange.request(ant.id, "commit", {"plan": "plan"}, timeout_s=5)


async def test_only_the_requester_commits_renews_or_releases(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "eve") as [me, ant, eve]:
        await agree(me, chain_of(me, ant), ant)
        for method in ("commit", "renew"):
            with pytest.raises(SwarmError, match="no lease"):
                await eve.exchange.request(ant.id, method, {"plan": "plan"}, timeout_s=5)
        await eve.exchange.request(ant.id, "release", {"plan": "plan"}, timeout_s=5)
        assert list(ant.host._leases) == ["plan"]
        assert "already serves a plan of this name" in (await offered(eve, ant, chain_of(eve, ant))).reason


async def test_wrong_bytes_from_one_source_are_thrown_away_and_the_next_is_asked(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "eve") as [me, ant, eve]:
        asked: list[str] = []

        def lie(_channel: object, call: Call) -> Reply:
            asked.append(call.fields["sha256"])
            return Reply({}, np.zeros(4, np.float32).tobytes())

        eve.router._routes["weights"] = (lie, eve.router._routes["weights"][1])
        plan = chain_of(me, ant)
        me.dataflow.install(plan)

        def with_eve_first(plan: Plan, peer: PeerId) -> Any:
            return offer_of(plan, peer, eve.id, me.id)

        await agree(me, plan, ant, offer=with_eve_first)
        outcome = await me.dataflow.ask(plan, np.zeros((1, 4), np.float32), monotonic() + 5)
        assert asked
        assert outcome.output.tolist() == [[1111] * 4]


async def test_weights_that_nobody_has_end_the_agreement_with_the_reasons(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "poor") as [_, ant, poor]:
        plan = chain_of(poor, ant)
        with pytest.raises(WeightsError, match="not on this device"):
            await agree(poor, plan, ant)
        await eventually(lambda: not ant.host._leases)


async def test_a_part_is_what_its_tensors_are_whoever_offered_it_first(tmp_path: Path) -> None:
    """Eve cannot put other parameters under a name that an honest requester will ask for."""
    async with swarm_of(tmp_path, "me", "ant", "eve") as [me, ant, eve]:
        plan = chain_of(eve, ant, plan_id="poison")
        fields, digests = offer_of(plan, ant.id)
        swapped = digests[32:64] + digests[:32] + digests[64:]
        reply = await eve.exchange.request(ant.id, "offer", fields, swapped, timeout_s=5)
        assert "not those that its name stands for" in reply.fields["reason"]
        honest = chain_of(me, ant)
        me.dataflow.install(honest)
        await agree(me, honest, ant)
        outcome = await me.dataflow.ask(honest, np.zeros((1, 4), np.float32), monotonic() + 5)
        assert outcome.output.tolist() == [[1111] * 4]


async def test_a_slow_requester_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "slow") as [me, ant, slow]:
        stuck = asyncio.Event()

        async def never(_channel: object, _call: Call) -> Reply:
            await stuck.wait()
            return Reply()

        slow.router._routes["weights"] = (never, slow.router._routes["weights"][1])
        waiting = asyncio.create_task(agree(slow, chain_of(slow, ant, slow, cuts=[0, 2, 4], plan_id="slow"), ant))
        await eventually(lambda: ant.holdings._loading)
        await agree(me, chain_of(me, ant), ant)
        assert ant.holdings.names == (chain_of(me, ant).steps[0].part.name,)
        assert not waiting.done(), "the slow one still waits"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_limit_is_kept_when_cold_parts_are_asked_for_again(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "you", "ant", ant=48) as [me, you, ant]:
        first = chain_of(me, ant, me, cuts=[0, 2, 4], plan_id="first")
        await release(me.exchange, await agree(me, first, ant))
        other = chain_of(you, you, ant, cuts=[0, 2, 4], plan_id="the other half")
        assert (await offered(you, ant, other)).accepted
        again = await offered(me, ant, replace(first, id="again"))
        assert not again.accepted, "its room was promised to another"


async def test_a_peer_that_fails_to_load_is_left_out_of_the_next_plan(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:

        def broken(*_: object) -> Any:
            raise RuntimeError("no such device")

        ant.workshop.build = broken  # type: ignore[method-assign, assignment]

        async def propose(view: View) -> list[Plan]:
            return [chain_of(me, next(node for node in (ant, bee) if view.find(node.id)))]

        [plan] = await negotiate(me.exchange, view_of(me, ant, bee), propose, offer_of, timeout_s=10)
        assert plan.steps[0].peers == ("bee",)
        with pytest.raises(SwarmError, match="ant"):
            await agree(me, chain_of(me, ant, plan_id="only ant"), ant)
        assert not ant.host._leases
