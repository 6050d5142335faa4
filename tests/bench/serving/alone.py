"""The model alone, as a process: what no server can beat.

{"do": "answers"}                        the right classes of the pictures
{"do": "rate", "batches", "seconds"}     figures of each batch size, measured for so long
"""

from __future__ import annotations

import json
import sys
from statistics import median
from time import perf_counter

import numpy as np

from tests.bench.serving.subject import SHAPE, Array, exported, pictures


def main() -> None:
    run = exported()
    print(json.dumps({"event": "ready"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "answers":
            answer: object = [run(picture[None])[0].argmax().item() for picture in pictures()]
        else:
            answer = [rate(run, size, command["seconds"]) for size in command["batches"]]
        print(json.dumps({"answer": answer}), flush=True)


def rate(run: object, size: int, seconds: float) -> dict[str, float]:
    """Samples a second and the median milliseconds of a batch, from an array to an array."""
    assert callable(run)
    x: Array = np.random.default_rng(0).normal(size=(size, *SHAPE)).astype(np.float32)
    for _ in range(3):
        run(x)
    took: list[float] = []
    began = now = perf_counter()
    while now - began < seconds:
        run(x)
        now, before = perf_counter(), now
        took.append(now - before)
    return {"batch": size, "per_s": size * len(took) / (now - began), "p50_ms": median(took) * 1e3}


if __name__ == "__main__":
    main()
