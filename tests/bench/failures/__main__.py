"""`python -m tests.bench.failures`: accuracy while 0, 1, 2, 3 of 4 devices are missing, scheme by scheme, offline.

The requester lives; which of the others are lost is averaged over. Every number is measured on Fashion-MNIST's test
pictures; the scores come from its training pictures. Same weights, same memory at the requester, same pictures for all.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from itertools import combinations
from pathlib import Path

import platformdirs

from swarm.models.importance.resilience import accuracy
from tests.bench.failures import report
from tests.bench.failures.losses import missing
from tests.bench.failures.report import Row
from tests.bench.failures.schemes import DEVICES, SCHEMES, Shared
from tests.bench.failures.subject import Subject, Wish

FRACTIONS = (0.0, 0.17, 0.33, 0.53, 0.77, 1.0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.failures", description="What do answers cost?")
    parser.add_argument("--model", default="fashion-vit")
    parser.add_argument("--weights", default="pretrained", help="pretrained, random:SEED or a safetensors file")
    parser.add_argument("--models", type=Path, action="append", default=[], help="Python file that registers models")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four IDX files")
    parser.add_argument("--pictures", type=int, default=10_000, help="of the test files")
    parser.add_argument("--samples", type=int, default=50, help="batches of 128 that scores are the mean of")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--out", type=Path, help="a folder for failures.csv and failures.svg")
    parser.add_argument("--cache", type=Path, help="a folder for studies and weights; your own cache by default")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    cache = given.cache or Path(platformdirs.user_cache_dir("swarm", appauthor=False))
    wish = Wish(given.model, given.weights, tuple(given.models), given.data, given.pictures, given.samples)
    with tempfile.TemporaryDirectory() as folder:
        subject = asyncio.run(Subject.of(wish, cache.resolve(), Path(folder)))
    whole = accuracy(subject.model, subject.tests)
    rows: list[Row] = []
    for name in given.schemes:
        for r in FRACTIONS:
            places = SCHEMES[name](subject.blocks, subject.scores, subject.columns, r)
            memory = max(report.memory(subject.blocks, shared) for shared in places)
            for failures in range(DEVICES):
                mean = _mean(subject, places, failures) if failures and r < 1 else whole
                rows.append(Row(name, r, failures, mean, memory))
                print(f"{name} r={r} {failures} missing: {mean:.4f}", flush=True)
    report.table(rows, f"{given.model}, {given.pictures} pictures, whole {whole:.4f}")
    if given.out is not None:
        report.write(rows, given.out, given.model)


def _mean(subject: Subject, places: list[list[Shared]], failures: int) -> float:
    """Over which devices are missing, and over the requester's places where a scheme has several."""
    found = []
    for shared in places:
        for lost in combinations(range(1, DEVICES), failures):
            with missing(subject.model, subject.blocks, shared, frozenset(lost)):
                found.append(accuracy(subject.model, subject.tests))
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
