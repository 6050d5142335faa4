"""One policy's process. It is told what to do, a line of JSON each, and answers each with one.

The first line: {"model", "policy", "blocks", "cache", "device", "threads"}; it answers with the memory that is held.

{"do": "closed", "most", "in_flight", "seconds", "warm", "within_s"}     clients of all cuts at once
{"do": "batch", "rows", "runs"}                                         batches of the first cut alone
{"do": "slices", "every", "rows", "runs"}                               the same, in slices of so many blocks each
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from swarm.models.workshop import Workshop
from tests.bench.policies.serving import Serving, Subject, serving


class Memory:
    """Of this process, or of the accelerator that computes for it; the most since `forget`."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device.startswith("cuda")

    def forget(self) -> None:
        if self._is_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def now(self) -> int:
        if self._is_cuda:
            import torch

            return int(torch.cuda.memory_allocated())
        return _status("VmRSS")

    def most(self) -> int:
        if self._is_cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def main() -> None:
    wish = json.loads(await asyncio.to_thread(sys.stdin.readline))
    cache = Path(wish["cache"])
    workshop = Workshop(cache, (), wish["device"], wish["threads"])
    await asyncio.to_thread(workshop.warm)
    subject = await Subject.of(wish["model"], workshop, cache)
    memory = Memory(workshop.device())
    bare = memory.now()
    async with serving(subject, workshop, wish["policy"], wish["blocks"]) as server:
        await server.warm()
        say({**server.parameters(), "over": memory.now() - bare})
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            memory.forget()
            answer = await obey(command, server, subject, workshop, wish["policy"])
            say({**answer, "peak": memory.most() - bare})


async def obey(
    command: dict[str, Any], server: Serving, subject: Subject, workshop: Workshop, policy: str
) -> dict[str, Any]:
    what = command.pop("do")
    if what == "closed":
        found: dict[str, Any] = await server.closed(**command)
        return found
    if what == "slices":
        every = command.pop("every")
        blocks = range(0, subject.blocks, every)
        async with serving(subject, workshop, policy, blocks) as other:
            return {"took": await other.batch(**command)}
    return {"took": await server.batch(**command)}


if __name__ == "__main__":
    asyncio.run(main())
