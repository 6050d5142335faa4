"""Asks a swarm all the time, as a process of its own, and writes a line of JSON for all that it sees.

    ready      the first answer is here; the others are compared with it
    request    asked and answered (the machine's monotonic time), attempts, whether it is right
    lost       a request that ended in an error, and its sentence
    gone       a peer that this one sees no more
    plan       the peers of the plan that is in use from now on
    answered   all of the requests

Started by `Asker`, on a device of a lab. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOOK_S = 0.005
READY_S = 240.0


class Asker:
    """The process, and what it has said. Use it in the lab's `with` block, which ends the process."""

    def __init__(self, lab: Any, device: int, *arguments: str) -> None:
        argv = [sys.executable, "-P", str(Path(__file__).resolve()), *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self._process = lab.popen(device, argv, **pipes)
        self.lines: list[dict[str, Any]] = []
        self._came = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def all(self, event: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event]

    def wait(self, so: Callable[[Asker], object], within_s: float = READY_S) -> None:
        """Until it is so; raises with its last lines when it is not in time, or the process has ended."""
        deadline = time.monotonic() + within_s
        with self._came:
            while not so(self):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._process.poll() is not None:
                    raise AssertionError(f"not so within {within_s} s; it said last: {self.lines[-5:]}")
                self._came.wait(min(left_s, 0.5))

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._came:
                self.lines.append(json.loads(line))
                self._came.notify_all()


async def _main(wish: argparse.Namespace) -> None:
    from swarm import Peer

    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with Peer("asker", client=True, remember=False) as peer:
        await peer.wait_for(wish.peers, timeout_s=60)
        await _measured(peer, len(wish.peers))
        split = [int(block) for block in wish.split.split(",")] if wish.split else None
        named = wish.peers if split else None
        async with await peer.load(wish.model, wish.strategy, split, named, wish.weights, goal=wish.goal) as session:
            x = _noise(session.plan.edges[0].tensor.shape)
            wanted = (await session(x)).output
            _say("ready")
            watching = asyncio.create_task(_watch(peer, session))
            asking = asyncio.create_task(_ask_all(session, x, wanted, wish))
            await over
            for task in (watching, asking):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asking


async def _measured(peer: Any, hosts: int) -> None:
    """Until everybody knows its own speed and its links."""
    while True:
        known = [host for host in peer.view().hosts() if host.profile.step_s and len(host.profile.links) >= hosts - 1]
        if len(known) >= hosts:
            return
        await asyncio.sleep(0.5)


def _noise(shape: Sequence[int]) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)


async def _ask_all(session: Any, x: Any, wanted: Any, wish: argparse.Namespace) -> None:
    left: Iterator[int] = iter(range(wish.requests))

    async def ask() -> None:
        for _ in left:
            await _ask(session, x, wanted, wish.deadline)

    await asyncio.gather(*(ask() for _ in range(wish.at_once)))
    _say("answered")


async def _ask(session: Any, x: Any, wanted: Any, deadline_s: float) -> None:
    import numpy as np

    from swarm import SwarmError

    asked = time.monotonic()
    try:
        result = await session(x, deadline_s=deadline_s)
    except SwarmError as error:
        _say("lost", asked=asked, sentence=str(error))
    else:
        right = bool(np.allclose(result.output, wanted, atol=1e-3))
        _say("request", asked=asked, answered=time.monotonic(), attempts=result.attempts, right=right)


async def _watch(peer: Any, session: Any) -> None:
    here: set[str] = set()
    plan = ""
    while True:
        view = peer.view()
        seen = {p.record.name for p in view.peers if not p.state.is_gone}
        for name in here - seen:
            _say("gone", t=time.monotonic(), peer=name)
        here = seen
        if session.plan.id != plan:
            plan = session.plan.id
            records = (view.find(peer_id) for peer_id in session.plan.peers())
            _say("plan", t=time.monotonic(), peers=[record.name for record in records if record is not None])
        await asyncio.sleep(LOOK_S)


def _say(event: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("peers", nargs="+")
    parser.add_argument("--model", default="fashion-vit")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--strategy", default="slices")
    parser.add_argument("--goal", default="throughput")
    parser.add_argument("--split", default="")
    parser.add_argument("--requests", type=int, default=10**9)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=60.0)
    asyncio.run(_main(parser.parse_args()))
