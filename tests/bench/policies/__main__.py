"""`python -m tests.bench.policies`: model by model, and everything that was started ended."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import platformdirs

from swarm.models.workshop import Workshop
from tests.bench.policies import report, stages
from tests.bench.policies.chart import Lines, chart
from tests.bench.policies.serving import Subject
from tests.bench.policies.stages import CUTS, MEASURED_BATCH, Wish

MODELS = ("vit_base_patch16_224", "vit_large_patch16_224")
BATCHES = (1, 2, 4, 8, 16, 32)
STAGES = ("mixed", "alone")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policies", description="Which policy batches best?")
    parser.add_argument("--model", nargs="+", default=MODELS, help="any that can be cut before every block")
    parser.add_argument("--batches", type=_numbers, default=BATCHES, help="largest batches, such as 1,8,32")
    parser.add_argument("--only", choices=STAGES, help="one of the two stages")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--patience", type=float, default=1200.0, help="seconds for one measurement, at most")
    parser.add_argument("--out", type=Path, help="a folder for policies_batch.svg and policies_slices.svg")
    parser.add_argument("--cache", type=Path, help="a folder for weights; your own cache by default")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the blocks below end what they began
    cache = given.cache or Path(platformdirs.user_cache_dir("swarm", appauthor=False))
    wish = Wish(
        models=given.model,
        batches=given.batches,
        seconds=given.seconds,
        rounds=given.rounds,
        device=given.device,
        threads=given.threads,
        patience_s=given.patience,
        cache=cache.resolve(),
    )
    by_batch: dict[str, Lines] = {}
    by_slice: dict[str, Lines] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for model in wish.models:
            try:
                found = measure(model, wish, Path(folder), given.only or STAGES)
            except RuntimeError as error:  # a process said nothing in time; the other models may do better
                print(f"MISSED {model}: {error}", flush=True)
                continue
            if found is not None:
                by_batch[model], by_slice[model] = found
    if given.out is not None and by_batch:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "policies_batch.svg").write_text(chart("requests in a batch", by_batch), encoding="utf-8")
        below = f"blocks in a slice, {MEASURED_BATCH} requests in a batch"
        (given.out / "policies_slices.svg").write_text(chart(below, by_slice), encoding="utf-8")


def measure(model: str, wish: Wish, folder: Path, only: str | tuple[str, ...]) -> tuple[Lines, Lines] | None:
    """Prints its tables; the lines for the charts, if those were measured."""
    subject = asyncio.run(_prepared(model, wish))
    blocks = [subject.blocks * i // CUTS for i in range(CUTS)]
    print(f"## {model}, {wish.device}, {wish.threads} threads, clients cut before blocks {blocks}\n", flush=True)
    if "mixed" in only:
        with stages.children(wish, model, blocks, folder) as (running, memory):
            report.held(memory)
            rows = stages.mixed(running, wish)
        report.mixed(rows)
    if "alone" not in only:
        return None
    with stages.children(wish, model, blocks, folder) as (running, _):
        by_batch, by_slice = stages.alone(running, wish, subject.blocks)
    below = f"blocks in a slice, batch {MEASURED_BATCH}"
    return report.lines(by_batch, "rows", "requests in a batch"), report.lines(by_slice, "every", below)


async def _prepared(model: str, wish: Wish) -> Subject:
    """Its weights are made here, once; the processes find them."""
    return await Subject.of(model, Workshop(wish.cache, (), wish.device, wish.threads), wish.cache)


if __name__ == "__main__":
    main()
