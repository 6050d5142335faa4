"""Clients that do as they are told, as one process, which writes a line of JSON for all that happens.

    told                                 writes
    load  KEY, how: words of Peer.load   ready; loaded: its plan; plan: what a session uses from now on
    ask   KEY, requests, at_once         request: asked and answered (the machine's monotonic time), attempts,
    stop  KEY                            whether it is right; lost: with its sentence; answered: all of them

Started by `Requester`, on a device of a lab. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.01
HERE_S, MEASURED_S, LOAD_S = 90.0, 180.0, 400.0
STOP_S = 30.0
CLOSE = 0.03
"""Of the largest figure of an answer: tensors may have travelled as float16."""


class Requester:
    """The process, and what it has said. Use it in the lab's `with` block, which ends the process."""

    def __init__(self, lab: Any, device: int, *arguments: str) -> None:
        argv = [sys.executable, "-P", str(Path(__file__).resolve()), *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self._process = lab.popen(device, argv, **pipes)
        self.lines: list[dict[str, Any]] = []
        self._came = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def tell(self, do: str, key: str, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "key": key, **what}) + "\n")
        self._process.stdin.flush()

    def all(self, event: str, key: str | None = None) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event and key in (None, line.get("key"))]

    def wait(self, so: Callable[[Requester], object], within_s: float) -> None:
        """Until it is so; raises with its last lines when it is not in time, or the process has ended."""
        if not self.waited(so, within_s):
            raise AssertionError(f"not so within {within_s} s; it said last: {self._last()}")

    def wait_for(self, event: str, key: str, count: int, within_s: float) -> None:
        """Until it has said so that often."""
        self.wait(lambda it: len(it.all(event, key)) >= count, within_s)

    def waited(self, so: Callable[[Requester], object], within_s: float) -> bool:
        """Whether it came to be so in time."""
        deadline = time.monotonic() + within_s
        with self._came:
            while not so(self):
                left_s = deadline - time.monotonic()
                if self._process.poll() is not None:
                    raise AssertionError(f"a requester ended; it said last: {self._last()}")
                if left_s <= 0:
                    return False
                self._came.wait(min(left_s, 0.5))
        return True

    def _last(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in line.items() if name != "plan"} for line in self.lines[-5:]]

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_S)

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._came:
                self.lines.append(json.loads(line))
                self._came.notify_all()


Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class _Client:
    """One peer and its sessions, by key."""

    def __init__(self, peer: Any, wish: argparse.Namespace, spawn: Spawn) -> None:
        self._peer = peer
        self._wish = wish
        self._spawn = spawn
        self._sessions: dict[str, Any] = {}
        self._busy: dict[str, list[asyncio.Task[None]]] = {}
        self._wanted: Any = None

    async def load(self, key: str, how: dict[str, Any]) -> None:
        session = await self._peer.load(self._wish.model, weights=self._wish.weights, **how)
        self._sessions[key] = session
        self._spawn(self._watch(key, session))
        x = _noise(session.plan.edges[0].tensor.shape)
        self._wanted = (await session(x)).output if self._wanted is None else self._wanted
        _say("loaded", key=key, plan=_words(self._peer, session))

    async def ask(self, key: str, requests: int | None, at_once: int) -> None:
        """So many requests, or without a number until it is told to stop."""
        left: Iterator[int] = iter(range(requests)) if requests is not None else count()
        session = self._sessions[key]
        x = _noise(session.plan.edges[0].tensor.shape)
        self._busy[key] = [self._spawn(self._ask(key, session, x, left)) for _ in range(at_once)]
        await asyncio.wait(self._busy[key])
        _say("answered", key=key)

    def stop(self, key: str) -> None:
        for task in self._busy.pop(key, []):
            task.cancel()

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.aclose()

    async def _ask(self, key: str, session: Any, x: Any, left: Iterator[int]) -> None:
        from swarm import SwarmError

        for _ in left:
            asked = time.monotonic()
            try:
                result = await session(x, deadline_s=self._wish.deadline)
            except SwarmError as error:
                _say("lost", key=key, asked=asked, sentence=str(error))
            else:
                away = abs(result.output - self._wanted).max() / abs(self._wanted).max()
                answered = time.monotonic()
                _say(
                    "request",
                    key=key,
                    asked=asked,
                    answered=answered,
                    attempts=result.attempts,
                    right=bool(away < CLOSE),
                )

    async def _watch(self, key: str, session: Any) -> None:
        seen = ""
        while True:
            if session.plan.id != seen:
                seen = session.plan.id
                _say("plan", key=key, t=time.monotonic(), plan=_words(self._peer, session))
            await asyncio.sleep(LOOK_S)


def _words(peer: Any, session: Any) -> dict[str, Any]:
    """A plan: its parts; the share of the model that is computed here; the tensors that others
    need, and their bytes; and what it was predicted to take."""
    order, plan = session._healer._order, session.plan
    stages = order.blueprint.profile.stages
    names = ["input", *(stage.name for stage in stages)]
    view, done, elsewhere = peer.view(), [0.0], dict[str, int]()
    for stage in stages:
        done.append(done[-1] + stage.flops)
    parts, here = list[tuple[str, str]](), 0.0
    for step in plan.steps:
        record = view.find(step.peers[0])
        parts.append((record.name if record is not None else "?", step.part.end))
        if step.peers[0] == peer.id:
            end = len(stages) if step.part.end == "output" else names.index(step.part.end)
            here += done[end] - done[names.index(step.part.start)]
        else:
            refs = order.manifest.refs
            elsewhere |= {refs[slot.name].sha256: slot.nbytes for slot in order.blueprint.tensors_of(step.part)}
    wires = [edge.wire for edge in plan.edges[1:-1]]
    return {
        "parts": parts,
        "wires": wires,
        "here": here / done[-1],
        "elsewhere": elsewhere,
        "predicted_s": plan.estimate.latency_s,
    }


async def _main(wish: argparse.Namespace) -> None:
    from swarm import Peer

    loop = asyncio.get_running_loop()
    told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(64)

    def listen() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(told.put(json.loads(line)), loop)
        asyncio.run_coroutine_threadsafe(told.put(None), loop)

    async with AsyncExitStack() as stack:
        names = [f"{wish.name}{number or ''}" for number in range(wish.peers)]
        peers = [await stack.enter_async_context(Peer(name, client=True, threads=1, remember=False)) for name in names]
        for peer in peers:
            await peer.wait_for([wish.host], timeout_s=HERE_S)
        await _measured(peers[0], wish.host)
        threading.Thread(target=listen, daemon=True).start()
        blueprint = await peers[0]._workshop.study(wish.model)
        _say("ready", picture_bytes=blueprint.profile.input.elements)
        await _obey(told, peers, wish)


async def _obey(told: asyncio.Queue[dict[str, Any] | None], peers: Sequence[Any], wish: argparse.Namespace) -> None:
    """All peers do what is told, until nothing is told any more."""
    running = list[asyncio.Task[None]]()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        running.append(group.create_task(work))
        return running[-1]

    async with asyncio.TaskGroup() as group:
        clients = [_Client(peer, wish, spawn) for peer in peers]
        while (what := await told.get()) is not None:
            for client in clients:
                match what["do"]:
                    case "load":
                        spawn(client.load(what["key"], what["how"]))
                    case "ask":
                        spawn(client.ask(what["key"], what["requests"], what["at_once"]))
                    case "stop":
                        client.stop(what["key"])
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for client in clients:
            await client.aclose()


async def _measured(peer: Any, host: str) -> None:
    """Until the host knows its own speed, for which it loads torch."""
    async with asyncio.timeout(MEASURED_S):
        while not any(record.profile.step_s for record in peer.view().called(host)):
            await asyncio.sleep(0.5)


def _noise(shape: Any) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)


def _say(event: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("host")
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--model", default="fashion-vit")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--deadline", type=float, default=120.0)
    asyncio.run(_main(parser.parse_args()))
