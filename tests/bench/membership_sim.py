"""How knowing scales, in virtual time: `python -m tests.bench.membership_sim [N …]`; a quarter of an hour, 8 GB.

For each N, as seconds until the last peer knows it: an update, a new peer, a killed process, an unplugged host; and
what one peer sends and receives at rest. Prints a table and writes `membership_sim.svg`. Up to 64 peers are a full
mesh; beyond, each keeps about 64 connections, and a message to somebody else takes one of its own, whose making is not
counted.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path
from statistics import median

from tests.simulator.large import a_large_swarm
from tests.simulator.measure import join_s, kill_s, rest_bytes_per_s, unplug_s, update_s

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000)
COLUMNS = ("update", "join", "kill", "unplug", "B/s")
COLOURS = ("#1b6ca8", "#2a9d5c", "#c8553d", "#7a4fa3")
OUT = Path("membership_sim.svg")


def measure(size: int, seed: int) -> list[float]:
    world = a_large_swarm(size, seed)
    row = [update_s(world, 3), join_s(world)]
    world.run(world.clock.now + 3.0)
    row += [kill_s(world, 5), 0.0]
    world.run(world.clock.now + 5.0)
    row.append(rest_bytes_per_s(world, 10.0))
    row[3] = unplug_s(world, 7)
    return row


def row_of(size: int) -> list[float]:
    """Medians of several runs; large swarms differ little from run to run."""
    runs = [measure(size, seed) for seed in range(5 if size <= 300 else 1)]
    return [median(column) for column in zip(*runs, strict=True)]


def plot(rows: dict[int, list[float]]) -> str:
    """Seconds against N, the latter on a logarithmic scale."""
    width, height, left, low = 640, 360, 60, 310
    most = max(value for row in rows.values() for value in row[:4]) * 1.1
    first, last = math.log(min(rows)), math.log(max(rows))

    def x(size: int) -> float:
        return left + (width - left - 110) * (math.log(size) - first) / max(last - first, 1e-9)

    def y(value: float) -> float:
        return low - (low - 20) * value / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="{height - 8}">peers; seconds until the last of them knows, in virtual time</text>',
    ]
    parts += [f'<text x="{x(size):.0f}" y="{low + 18}" text-anchor="middle">{size:,}</text>' for size in rows]
    for tick in range(int(most) + 1):
        parts.append(f'<path d="M{left} {y(tick):.1f}H{width - 100}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick} s</text>')
    ends: list[float] = []
    for index, (name, colour) in enumerate(zip(COLUMNS, COLOURS, strict=False)):
        points = " ".join(f"{x(size):.1f},{y(row[index]):.1f}" for size, row in rows.items())
        end = y(list(rows.values())[-1][index]) + 4
        while any(abs(end - other) < 14 for other in ends):
            end -= 2
        ends.append(end)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - 96}" y="{end:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(sizes: list[int]) -> None:
    rows: dict[int, list[float]] = {}
    print(f"{'N':>6} " + " ".join(f"{name:>16}" for name in COLUMNS) + "   (and its ratio to the first N)", flush=True)
    for size in sizes:
        began = time.perf_counter()
        rows[size] = row_of(size)
        base = rows[sizes[0]]
        cells = [f"{value:8.2f} ({value / of:4.1f}×)" for value, of in zip(rows[size], base, strict=True)]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{size:6} " + " ".join(f"{cell:>16}" for cell in cells), end="")
        print(f"   took {time.perf_counter() - began:.0f} s, {memory:.1f} GB", flush=True)
    OUT.write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or list(SIZES))
