"""A peer that asks as it is told, as a process on a device of a lab; a line of JSON for all that happens.

load  KEY, how: words of Peer.load                      loaded: the plan, and what it was predicted to take
ask   KEY, requests                                     result: seconds, the trace, how far from the first answer
label KEY, folder, first, count, batch                  labelled: how many were right, what was missing
drop  KEY                                               dropped
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE_S, ALONE_S = 120.0, 240.0


class Asker:
    """Sessions of one peer, by key."""

    def __init__(self, peer: Any, wish: argparse.Namespace) -> None:
        self._peer = peer
        self._wish = wish
        self._sessions: dict[str, Any] = {}
        self._wanted: Any = None

    async def load(self, key: str, how: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        session = await self._peer.load(self._wish.model, weights=self._wish.weights, **how)
        self._sessions[key] = session
        return {"took_s": time.monotonic() - began, **self._plan(session)}

    def _plan(self, session: Any) -> dict[str, Any]:
        from swarm import schema

        plan, view = session.plan, self._peer.view()
        names = {peer: (view.find(peer).name if view.find(peer) else peer[:8]) for peer in plan.peers()}
        blueprint = session._healer._order.blueprint
        held = dict.fromkeys(names.values(), 0)
        for step in plan.steps:
            for peer in step.peers:
                held[names[peer]] += sum(slot.nbytes for slot in blueprint.tensors_of(step.part_of(peer)))
        groups = [schema.pack(step.group) for step in plan.steps if step.group is not None]
        return {
            "plan": plan.id,
            "strategy": plan.strategy,
            "estimate": schema.pack(plan.estimate),
            "names": names,
            "groups": groups,
            "held_bytes": held,
            "model_bytes": blueprint.profile.parameter_bytes,
        }

    async def contest(self, key: str, wire: str, strategies: list[str]) -> dict[str, Any]:
        """Open what is chosen, and the best and the equal shares of each strategy."""
        contest = await self._peer.plan(self._wish.model, self._wish.weights, wire)
        opened: dict[str, Any] = {}
        for place, candidate in enumerate(contest.candidates):
            if candidate.plan is None:
                continue
            name = candidate.plan.strategy + (", equal" if "equal shares" in candidate.title else "")
            name = "local, elsewhere" if name == "local" and candidate.plan.peers() != (self._peer.id,) else name
            if name not in opened and (candidate.plan.strategy in (*strategies, "local") or place == 0):
                session = self._sessions[name] = await self._peer.open(contest, candidate)
                opened[name] = {"title": candidate.title, **self._plan(session)}
        verdicts = [(candidate.title, candidate.verdict) for candidate in contest.candidates]
        return {"opened": opened, "verdicts": verdicts}

    async def ask(self, key: str, requests: int) -> None:
        import numpy as np

        from swarm import SwarmError, schema

        session = self._sessions[key]
        shape = session.plan.edges[0].tensor.shape
        x = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
        for _ in range(requests):
            asked = time.monotonic()
            try:
                result = await session(x, deadline_s=self._wish.deadline)
            except SwarmError as error:
                _say("lost", key=key, asked=asked, seconds=time.monotonic() - asked, sentence=str(error))
                continue
            self._wanted = result.output if self._wanted is None else self._wanted
            away = float(abs(result.output - self._wanted).max() / abs(self._wanted).max())
            trace = [schema.pack(row) for row in result.trace]
            what = {"plan": session.plan.id, "degraded": result.degraded, "attempts": result.attempts}
            _say("result", key=key, asked=asked, seconds=result.latency_s, trace=trace, away=away, **what)

    async def label(self, key: str, folder: str, first: int, count: int, batch: int) -> dict[str, Any]:
        """How many pictures of Fashion-MNIST's test files are named right."""
        pictures, labels = (
            _idx(Path(folder) / "t10k-images-idx3-ubyte.gz"),
            _idx(Path(folder) / "t10k-labels-idx1-ubyte.gz"),
        )
        right, said, guesses = 0, set[str | None](), list[int]()
        for begin in range(first, first + count, batch):
            some = slice(begin, min(begin + batch, first + count))
            result = await self._sessions[key](pictures[some, None], deadline_s=self._wish.deadline)
            best = result.output.argmax(axis=1)
            right += int((best == labels[some]).sum())
            guesses += best.tolist()
            said.add(result.degraded)
        return {"right": right, "count": count, "degraded": sorted(map(str, said)), "guesses": guesses}

    async def drop(self, key: str) -> None:
        await self._sessions.pop(key).aclose()

    async def aclose(self) -> None:
        for key in list(self._sessions):
            await self.drop(key)


def _idx(path: Path) -> Any:
    import numpy as np

    raw = gzip.decompress(path.read_bytes())
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(np.frombuffer(raw, ">i4", raw[3], 4))


async def _main(wish: argparse.Namespace) -> None:
    from swarm import Peer

    loop = asyncio.get_running_loop()
    told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(64)

    def listen() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(told.put(json.loads(line)), loop)
        asyncio.run_coroutine_threadsafe(told.put(None), loop)

    async with Peer("me", client=True, threads=1, remember=False, models=wish.models, open=wish.open) as peer:
        if wish.others:
            await peer.wait_for(wish.others, timeout_s=HERE_S)
            async with asyncio.timeout(ALONE_S):
                while not all(record.profile.step_s for record in peer.view().hosts()):
                    await asyncio.sleep(0.5)
        threading.Thread(target=listen, daemon=True).start()
        asker = Asker(peer, wish)
        _say("ready")
        while (what := await told.get()) is not None:
            await _obey(asker, what)
        await asker.aclose()


async def _obey(asker: Asker, what: dict[str, Any]) -> None:
    from swarm import SwarmError

    do, key = what.pop("do"), what.pop("key")
    try:
        done = await getattr(asker, do)(key, **what)
    except SwarmError as error:
        done = {"sentence": str(error)}
    _say(f"{do} done", key=key, **(done or {}))


def _say(event: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, "t": time.monotonic(), **what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    from swarm.cli.loop import run

    parser = argparse.ArgumentParser()
    parser.add_argument("others", nargs="*")
    parser.add_argument("--model", default="fashion-vit")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--models", type=Path, action="append", default=[])
    parser.add_argument("--deadline", type=float, default=120.0)
    parser.add_argument("--open", action="store_true")
    run(_main(parser.parse_args()))
