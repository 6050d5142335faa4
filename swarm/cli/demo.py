"""`swarm demo`: three peers in three processes find each other and classify real pictures together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from swarm.cli import loop, show
from swarm.entrance import VARIABLE
from swarm.errors import SwarmError
from swarm.peer import Peer
from swarm.result import Result
from swarm.secret import Secret

MODEL = "fashion-vit"
SPLIT = (4, 8)
"""Not the fastest on one machine, but each peer has something to do."""
NAMES = ("ant", "bee", "cricket")
LOOPBACK = "127.0.0.1"
START_S = 20.0
STOP_S = 3.0


def run(*, as_json: bool) -> None:
    loop.run(_demo(as_json))


async def _demo(as_json: bool) -> None:
    def say(text: str) -> None:
        if not as_json:
            show.tell(text)

    say(f"Starting {len(NAMES)} peers as processes on this machine; mDNS on loopback introduces them.")
    pictures = await asyncio.to_thread(_pictures)
    secret = Secret.new()
    itself = Peer("demo", port=0, interfaces=[LOOPBACK], client=True, threads=1, remember=False, secret=secret)
    async with _three_peers(secret) as ready, itself as peer:
        ids = [row["id"] for row in ready]
        await peer.wait_for(ids, timeout_s=START_S)
        for row in ready:
            say(f"  found {row['name']} at {row['address']}")
        with show.progress(as_json) as progress:
            say(f"Agreeing on a split of {MODEL} (a vision transformer of 12 blocks) and loading the parts…")
            together = await peer.load(MODEL, "slices", SPLIT, ids, progress=progress)
            alone = await peer.load(MODEL, "local", progress=progress)
        async with together, alone:
            results = [await together(path) for path in pictures]
            whole = [await alone(path) for path in pictures]
        report = _report(show.plan_json(together.plan, peer.view()), pictures, results, whole)
    if as_json:
        show.print_json(report)
    else:
        _print(report, results)
    if not report["same_as_whole_model"]:
        raise SwarmError("The answers of the sliced model differ from the whole model's; please report this.")


def _pictures() -> list[str]:
    return sorted(str(path) for path in Path(str(files("swarm.models") / "data" / "pictures")).glob("*.png"))


def _report(plan: Any, pictures: list[str], results: list[Result], whole: list[Result]) -> dict[str, Any]:
    difference = max(float(np.abs(a.output - b.output).max()) for a, b in zip(results, whole, strict=True))
    same = all(a.labels[0][0].label == b.labels[0][0].label for a, b in zip(results, whole, strict=True))
    return {
        "model": MODEL,
        "plan": plan,
        "results": [
            {"input": Path(path).name, "labels": show.labels_json(result)[0], "trace": show.trace_json(result)}
            for path, result in zip(pictures, results, strict=True)
        ],
        "same_as_whole_model": same and difference < 1e-4,
        "largest_difference": difference,
    }


def _print(report: dict[str, Any], results: list[Result]) -> None:
    from rich.console import Console

    console = Console()
    for step in report["plan"]["steps"]:
        show.tell(f"  {step['peers'][0]} holds {step['part']}")
    rows = []
    for row, result in zip(report["results"], results, strict=True):
        best = row["labels"][0]
        wire_s = sum(step.wire_s for step in result.trace) + result.answer_wire_s
        computed = (show.milliseconds(step.compute_s) for step in result.trace)
        rows.append((row["input"], best["label"], f"{best['score']:.0%}", *computed, show.milliseconds(wire_s)))
    headers = ("picture", "label", "sure", *(row.peer for row in results[0].trace), "wire")
    console.print(show.table(headers, rows, "Who ran what, how long"))
    console.print(show.trace_table(results, "Every hop, mean over the pictures"))
    console.print(
        f"The whole model on one device gives the same {len(results)} labels; "
        f"its outputs differ by at most {report['largest_difference']:.1e}."
    )


@asynccontextmanager
async def _three_peers(secret: Secret) -> AsyncIterator[list[dict[str, Any]]]:
    """Three `swarm join`, ready; stopped and gone when the block ends, whatever happens in it."""
    command = [
        sys.executable,
        "-m",
        "swarm",
        "join",
        "--json",
        "--forget",
        "--interface",
        LOOPBACK,
        "--port",
        "0",
        "--threads",
        "1",
    ]
    processes: list[asyncio.subprocess.Process] = []
    try:
        for name in NAMES:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *command, "--name", name, stdin=None, stdout=pipe, env=_environment(secret)
            )
            processes.append(process)
        yield list(await asyncio.gather(*(_ready(process) for process in processes)))
    finally:
        await asyncio.gather(*(_stop(process) for process in processes))


def _environment(secret: Secret) -> dict[str, str]:
    """This process's, without the user's settings: the demo is the same everywhere, and a swarm of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_")}
    return kept | {"SWARM_CONFIG": os.devnull, VARIABLE: secret.reveal()}


async def _ready(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        raise SwarmError(f"A peer of the demo was not ready within {START_S:g} s; try `swarm join` to see why.")
    ready: dict[str, Any] = json.loads(line)
    return ready


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
