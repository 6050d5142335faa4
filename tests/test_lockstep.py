"""A group's requests over a swarm in memory: in lock-step, with members that go, hang, come back, or lie."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from swarm import schema, talk
from swarm.errors import DeadlineExceeded, Overloaded, PeerLost, SwarmError
from swarm.plan import Answer, Plan
from swarm.requests import Outcome
from swarm.result import degradation
from tests.toy import Node, agree, offer_of, swarm_of
from tests.toy_group import SPEC, GroupWorkshop, expected, group_plan

SPLITS = ("tokens", "columns")


def picture(samples: int = 1) -> Any:
    return np.arange(samples * SPEC.elements, dtype=np.float32).reshape(samples, *SPEC.shape) / 8


def soon(seconds: float = 10.0) -> float:
    return monotonic() + seconds


@asynccontextmanager
async def group_of(folder: Path, *names: str, **what: Any) -> AsyncIterator[tuple[list[Node], Plan]]:
    """Nodes that have agreed on a plan in which all share the blocks; the first asks and leads."""
    async with swarm_of(folder, *names) as nodes:
        for node in nodes:
            node.workshop = GroupWorkshop()
        plan = group_plan(*nodes, **what)
        nodes[0].dataflow.install(plan)
        yield nodes, await agree(nodes[0], plan, *nodes[1:])


async def ask(nodes: list[Node], plan: Plan, x: Any, seconds: float = 10.0) -> Outcome:
    return await nodes[0].dataflow.ask(plan, x, soon(seconds))


def workshop(node: Node) -> GroupWorkshop:
    assert isinstance(node.workshop, GroupWorkshop)
    return node.workshop


def stops_at(exchange: int, reached: threading.Event, go: threading.Event) -> Callable[[int], None]:
    def wait(now: int) -> None:
        if now == exchange:
            reached.set()
            assert go.wait(10)

    return wait


@pytest.fixture
def stuck() -> Any:
    go = threading.Event()
    yield go
    go.set()


@pytest.mark.parametrize("split", SPLITS)
async def test_members_in_lock_step_give_what_one_device_gives(tmp_path: Path, split: str) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split=split) as (nodes, plan):
        outcome = await ask(nodes, plan, picture(3))
        np.testing.assert_allclose(outcome.output, expected(picture(3), split), rtol=1e-6)
        assert [row.step for row in outcome.trace] == ["0", "1", "2"]
        assert not any(row.missing for row in outcome.trace)
        pairs = {channel.remote.id for channel in nodes[1].links.channels() if channel.purpose == "tensors"}
        assert "bee" in pairs, "members talk straight to each other"


@pytest.mark.parametrize("split", SPLITS)
async def test_many_requests_at_once_keep_their_own_answers(tmp_path: Path, split: str) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split=split) as (nodes, plan):
        inputs = [picture(1 + i % 3) + i for i in range(30)]
        outcomes = await asyncio.gather(*(ask(nodes, plan, x) for x in inputs))
        for x, outcome in zip(inputs, outcomes, strict=True):
            np.testing.assert_allclose(outcome.output, expected(x, split), rtol=1e-6)
        for node in nodes:
            lockstep = node.dataflow._lockstep
            assert not lockstep._talks.open
            assert not lockstep._talks.held_bytes, "nothing is kept of what is answered"


@pytest.mark.parametrize("split", SPLITS)
async def test_a_member_that_dies_between_two_exchanges_ends_the_request_with_its_name(
    tmp_path: Path, split: str, stuck: threading.Event
) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split=split) as (nodes, plan):
        reached = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, reached, stuck)
        asked = asyncio.create_task(ask(nodes, plan, picture()))
        assert await asyncio.to_thread(reached.wait, 10)
        for node in nodes[:2]:
            node.dataflow.lost(nodes[2].id, "bee")
        with pytest.raises(PeerLost, match="Lost the connection to bee"):
            await asked


@pytest.mark.parametrize("split", SPLITS)
async def test_a_silent_member_ends_the_request_once_its_exchange_is_overdue(
    tmp_path: Path, split: str, stuck: threading.Event
) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split=split, patience_s=0.3) as (nodes, plan):
        workshop(nodes[2]).before_turn = stops_at(0, threading.Event(), stuck)
        with pytest.raises(PeerLost, match=r"bee sent nothing for 0\.3 s; a share of toy is there") as caught:
            await ask(nodes, plan, picture())
        assert caught.value.culprit == "bee"


async def test_degrading_goes_on_without_a_silent_member_and_says_what_is_missing(
    tmp_path: Path, stuck: threading.Event
) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split="columns", on_loss="degrade", patience_s=0.3) as (
        nodes,
        plan,
    ):
        workshop(nodes[2]).before_turn = stops_at(0, threading.Event(), stuck)
        outcome = await ask(nodes, plan, picture())
        np.testing.assert_allclose(outcome.output, expected(picture(), "columns", {1: 2, 2: 2, 3: 2}), rtol=1e-6)
        assert outcome.trace[1].missing == ("bee",)
        said = degradation(outcome.plan, outcome.trace, str.upper)
        assert said == "BEE was lost: 4 of 12 heads (33%) and 4 of 12 neurons (33%) are missing."
        began = monotonic()
        again = await ask(nodes, plan, picture())
        assert again.trace[1].missing == ("bee",)
        assert monotonic() - began < 0.3, "who was missing a moment ago is not waited for anew"


async def test_degrading_goes_on_at_once_when_a_connection_is_lost(tmp_path: Path, stuck: threading.Event) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", on_loss="degrade", patience_s=60.0) as (nodes, plan):
        reached = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, reached, stuck)
        asked = asyncio.create_task(ask(nodes, plan, picture()))
        assert await asyncio.to_thread(reached.wait, 10)
        for node in nodes[:2]:
            node.dataflow.lost(nodes[2].id, "bee")
        outcome = await asked
        assert outcome.trace[1].missing == ("bee",)
        assert (outcome.output[0, 4:] == 1000).all(), "its tokens are not there"
        assert (outcome.output[0, :4] > 1000).all()


async def test_the_second_to_last_survivor_answers_too(tmp_path: Path) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split="columns", on_loss="degrade", patience_s=60.0) as (
        nodes,
        plan,
    ):
        for gone in nodes[1:]:
            await gone.die()
            nodes[0].dataflow.lost(gone.id, gone.id)
        outcome = await ask(nodes, plan, picture())
        np.testing.assert_allclose(outcome.output, expected(picture(), "columns", dict.fromkeys(range(4), 4)))
        assert set(outcome.trace[1].missing) == {"ant", "bee"}


async def test_one_who_finds_somebody_missing_tells_the_others(tmp_path: Path, stuck: threading.Event) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split="columns", on_loss="degrade", patience_s=60.0) as (
        nodes,
        plan,
    ):
        reached = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, reached, stuck)
        asked = asyncio.create_task(ask(nodes, plan, picture()))
        assert await asyncio.to_thread(reached.wait, 10)
        nodes[1].dataflow.lost(nodes[2].id, "bee")  # only ant has noticed
        assert (await asked).trace[1].missing == ("bee",)


async def test_a_member_that_comes_back_in_the_middle_is_not_listened_to(
    tmp_path: Path, stuck: threading.Event
) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", split="columns", on_loss="degrade", patience_s=0.2) as (
        nodes,
        plan,
    ):
        late = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, threading.Event(), stuck)

        def dawdles(exchange: int) -> None:
            if exchange == 2:
                stuck.set()
                late.wait(0.1)

        workshop(nodes[1]).before_turn = dawdles
        outcome = await ask(nodes, plan, picture())
        np.testing.assert_allclose(outcome.output, expected(picture(), "columns", {1: 2, 2: 2, 3: 2}), rtol=1e-6)


async def test_the_deadline_of_a_request_bounds_its_exchanges(tmp_path: Path, stuck: threading.Event) -> None:
    async with group_of(tmp_path, "me", "ant", patience_s=60.0) as (nodes, plan):
        workshop(nodes[1]).before_turn = stops_at(0, threading.Event(), stuck)
        with pytest.raises(DeadlineExceeded):
            await ask(nodes, plan, picture(), 0.3)


async def test_a_request_that_is_cancelled_ends_everywhere(tmp_path: Path, stuck: threading.Event) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", patience_s=60.0) as (nodes, plan):
        reached = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, reached, stuck)
        asked = asyncio.create_task(ask(nodes, plan, picture()))
        assert await asyncio.to_thread(reached.wait, 10)
        asked.cancel()
        async with asyncio.timeout(5):
            while any(node.dataflow._lockstep._talks.open for node in nodes):
                await asyncio.sleep(0.01)


async def test_a_share_that_fails_tells_the_requester(tmp_path: Path) -> None:
    async with group_of(tmp_path, "me", "ant") as (nodes, plan):

        def fails(exchange: int) -> None:
            raise ValueError("no memory left")

        workshop(nodes[1]).before_turn = fails
        with pytest.raises(SwarmError, match="ant failed to run its share of the model"):
            await ask(nodes, plan, picture())


def share_of(plan: Plan, **change: Any) -> dict[str, Any]:
    return {"plan": plan.id, "request": 7, "step": "1", "exchange": 0, "samples": 1, **change}


AGREED = 3 * 2 * SPEC.shape[1] * 4
"""Bytes of one sample that each of two members sends in an exchange."""


@pytest.mark.parametrize(
    ("change", "nbytes", "taken"),
    [
        ({}, AGREED, 1),
        ({"samples": 2}, 2 * AGREED, 1),
        ({"plan": "other"}, AGREED, 0),
        ({"step": "0"}, AGREED, 0),
        ({"step": "nowhere"}, AGREED, 0),
        ({"exchange": 99}, AGREED, 0),
        ({"exchange": -1}, AGREED, 0),
        ({"samples": 0}, AGREED, 0),
        ({"samples": 65}, 65 * AGREED, 0),
        ({"samples": 2}, AGREED, 0),
        ({}, AGREED + 1, 0),
        ({"missing": ["x"]}, AGREED, 0),
    ],
)
async def test_only_a_share_that_the_plan_knows_is_taken(tmp_path: Path, change: Any, nbytes: int, taken: int) -> None:
    async with group_of(tmp_path, "me", "ant") as (nodes, plan):
        fields = share_of(plan) | change
        nodes[1].exchange.tell(nodes[0].id, "share", fields, bytes(nbytes), timeout_s=5, purpose="tensors")
        await asyncio.sleep(0.05)
        assert len(nodes[0].dataflow._lockstep._talks.open) == taken
        np.testing.assert_allclose((await ask(nodes, plan, picture())).output, expected(picture(), "tokens"))


async def test_a_plan_that_is_over_takes_its_shares_with_it(tmp_path: Path) -> None:
    async with group_of(tmp_path, "me", "ant") as (nodes, plan):
        talks = nodes[0].dataflow._lockstep._talks
        nodes[1].exchange.tell(nodes[0].id, "share", share_of(plan), bytes(AGREED), timeout_s=4e6, purpose="tensors")
        await asyncio.sleep(0.05)
        assert talks.open
        nodes[0].dataflow.remove(plan.id)
        assert not talks.open
        assert not talks.held_bytes


async def test_too_many_requests_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "MAX_TALKS", 3)
    async with group_of(tmp_path, "me", "ant") as (nodes, plan):
        for number in range(3):
            fields = share_of(plan, request=100 + number)
            nodes[1].exchange.tell(nodes[0].id, "share", fields, bytes(AGREED), timeout_s=5, purpose="tensors")
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="me has as much to do for groups"):
            await ask(nodes, plan, picture())


async def test_shares_for_which_there_is_no_room_end_their_request_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "MAX_HELD_BYTES", AGREED - 1)
    async with group_of(tmp_path, "me", "ant", patience_s=60.0) as (nodes, plan):
        with pytest.raises(Overloaded, match="has as much to do for groups"):
            await ask(nodes, plan, picture())


async def test_an_input_that_comes_twice_does_no_harm(tmp_path: Path) -> None:
    """A sender repeats what was under way when a connection broke."""
    async with group_of(tmp_path, "me", "ant", "bee") as (nodes, plan):
        sending = nodes[0].dataflow._sending
        once = sending._along

        async def twice(*what: Any) -> None:
            await once(*what)
            await once(*what)

        sending._along = twice  # type: ignore[method-assign, assignment]
        for _ in range(3):
            np.testing.assert_allclose((await ask(nodes, plan, picture())).output, expected(picture(), "tokens"))


async def test_who_was_lost_before_the_input_came_is_told_with_it(tmp_path: Path) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", patience_s=60.0) as (nodes, plan):
        fields = {**share_of(plan, missing=[2]), "request": next(nodes[0].dataflow._requests._numbers) + 1}
        nbytes = 2 * 2 * SPEC.shape[1] * 4
        nodes[1].exchange.tell(nodes[0].id, "share", fields, bytes(nbytes), timeout_s=5, purpose="tensors")
        await asyncio.sleep(0.05)
        with pytest.raises(PeerLost, match="ant lost bee"):
            await ask(nodes, plan, picture(), 5.0)


async def test_a_silent_lead_that_is_not_the_requester_ends_the_request(tmp_path: Path, stuck: threading.Event) -> None:
    """Also where members can be spared: nobody can do without the lead."""
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        for node in (me, ant, bee):
            node.workshop = GroupWorkshop()
        plan = group_plan(ant, bee, requester=me, on_loss="degrade", patience_s=0.3, split="columns")
        me.dataflow.install(plan)
        await agree(me, plan, ant, bee)
        np.testing.assert_allclose((await ask([me], plan, picture())).output, expected(picture(), "columns"))
        workshop(ant).before_turn = stops_at(0, threading.Event(), stuck)
        began = monotonic()
        with pytest.raises(PeerLost, match="ant sent nothing"):
            await ask([me], plan, picture())
        assert monotonic() - began < 5


async def test_who_waits_for_others_does_not_count_as_holding_the_request_up(
    tmp_path: Path, stuck: threading.Event
) -> None:
    async with group_of(tmp_path, "me", "ant", "bee", patience_s=60.0) as (nodes, plan):
        reached = threading.Event()
        workshop(nodes[2]).before_turn = stops_at(0, reached, stuck)
        asked = asyncio.create_task(ask(nodes, plan, picture()))
        assert await asyncio.to_thread(reached.wait, 10)
        await asyncio.sleep(0.1)
        seen = await nodes[0].dataflow.whereabouts.look(plan)
        assert [each.peer for each in seen if each.stand is not None] == ["bee"]
        stuck.set()
        await asked


async def test_shares_without_a_request_are_let_go_at_their_deadline(tmp_path: Path) -> None:
    async with group_of(tmp_path, "me", "ant") as (nodes, plan):
        nbytes = AGREED
        nodes[1].exchange.tell(nodes[0].id, "share", share_of(plan), bytes(nbytes), timeout_s=0.2, purpose="tensors")
        lockstep = nodes[0].dataflow._lockstep
        await asyncio.sleep(0.1)
        assert lockstep._talks.held_bytes == {"me": nbytes}
        await asyncio.sleep(0.3)
        assert not lockstep._talks.held_bytes


def _regroup(plan: Plan, **changes: Any) -> Plan:
    step = plan.steps[1]
    assert step.group is not None
    return replace(plan, steps=(plan.steps[0], replace(step, group=replace(step.group, **changes)), plan.steps[2]))


def _of_another(plan: Plan) -> Plan:
    """As a requester makes it that has another revision of the model, whose blocks are wider, too."""
    step = _regroup(plan, width=8).steps[1]
    assert step.group is not None
    part = replace(step.part, anatomy="e" * 64)
    members = tuple(replace(each, part=replace(each.part, anatomy="e" * 64)) for each in step.group.members)
    changed = replace(step, part=part, group=replace(step.group, members=members))
    return replace(plan, steps=(plan.steps[0], changed, plan.steps[2]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_another, "another anatomy"),
        (lambda plan: _regroup(plan, tokens=7), "have to make up all there are"),
        (lambda plan: _regroup(plan, width=8), "another number or width"),
        (lambda plan: _regroup(plan, needed=0), "have to make up all there are"),
        (lambda plan: _regroup(plan, needed=1), "leaves out tokens that somebody reads"),
        (lambda plan: _regroup(plan, wire="float8"), "not a wire dtype"),
        (lambda plan: _regroup(plan, members=plan.steps[1].group.members[:1]), "one member for each of its peers"),
        (lambda plan: replace(plan, edges=tuple(replace(e, tokens=None) for e in plan.edges)), "than its own"),
    ],
)
async def test_an_offer_of_a_group_that_cannot_be_is_declined_with_the_reason(
    tmp_path: Path, change: Any, reason: str
) -> None:
    async with swarm_of(tmp_path, "me", "ant") as nodes:
        for node in nodes:
            node.workshop = GroupWorkshop()
        plan = group_plan(*nodes)
        fields, digests = offer_of(plan, nodes[1].id)
        fields["plan"] = schema.pack(change(plan).fragment(nodes[1].id))
        reply = await nodes[0].exchange.request(nodes[1].id, "offer", fields, digests, timeout_s=5)
        answer = schema.unpack(Answer, reply.fields)
        assert not answer.accepted
        assert reason in answer.reason
