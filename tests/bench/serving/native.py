"""A program with a peer embedded in it that asks another peer, as a process.

{"do": "load", "address", "peer", "answers"}       joins, loads the model on that peer, warms it up
{"do": "closed", "n", "seconds", "warm"}           n requests in flight, always
{"do": "open", "rate", "seconds", "deadline"}      as many a second as told, however many are in flight

Of the last two, `rows` may say how often a request holds its picture.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import uvloop

from swarm import Peer, SwarmError
from swarm.errors import DeadlineExceeded, Overloaded
from swarm.session import Session
from tests.bench.serving.subject import Array, pictures
from tests.bench.serving.tally import Tally, arrivals

MODEL = "fashion-vit"
PATIENT_S = 60.0


class Asking:
    """One session, asked about each picture in turn."""

    def __init__(self, session: Session, answers: Sequence[int]) -> None:
        self._session = session
        self._answers = answers
        self._pictures = [picture[None] for picture in pictures()]
        self._turns = itertools.cycle(range(len(self._pictures)))

    async def one(self, tally: Tally, rows: int = 1, deadline_s: float = PATIENT_S) -> None:
        turn = next(self._turns)
        x: Array = self._pictures[turn] if rows == 1 else self._pictures[turn].repeat(rows, 0)
        sent = perf_counter()
        try:
            result = await self._session(x, deadline_s=deadline_s)
        except SwarmError as error:
            tally.add(_outcome(error), sent, type(error).__name__)
        else:
            tally.add("ok", sent)
            tally.check(turn, result.output[-1].tolist())

    async def closed(self, n: int, seconds: float, warm: float, rows: int = 1, **_: Any) -> dict[str, Any]:
        tally = Tally(self._answers)
        over = asyncio.Event()

        async def again() -> None:
            while not over.is_set():
                await self.one(tally, rows)

        async with asyncio.TaskGroup() as tasks:
            for _number in range(n):
                tasks.create_task(again())
            await asyncio.sleep(warm)
            tally.begin()
            await asyncio.sleep(seconds)
            tally.end()
            over.set()
        return tally.summary()

    async def open(self, rate: float, seconds: float, deadline: float, rows: int = 1, **_: Any) -> dict[str, Any]:
        tally = Tally(self._answers)
        async with asyncio.TaskGroup() as tasks:

            def launch() -> None:
                tasks.create_task(self.one(tally, rows, deadline))

            tally.begin()
            skipped = await arrivals(rate, seconds, launch)
            tally.end()
        return tally.summary(skipped=skipped)


def _outcome(error: SwarmError) -> str:
    return "refused" if isinstance(error, Overloaded) else "late" if isinstance(error, DeadlineExceeded) else "failed"


async def main() -> None:
    first = json.loads(await asyncio.to_thread(sys.stdin.readline))
    peer = Peer(
        "asker", port=0, interfaces=["127.0.0.1"], mdns=False, peers=[first["address"]], client=True, remember=False
    )
    async with peer:
        await peer.wait_for([first["peer"]], timeout_s=60)
        async with await peer.load(MODEL, "local", peers=[first["peer"]]) as session:
            asking = Asking(session, first["answers"])
            await asking.closed(1, 1.0, 0.0)
            print(json.dumps({"event": "ready"}), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                command = json.loads(line)
                work = asking.closed if command["do"] == "closed" else asking.open
                print(json.dumps(await work(**command)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
