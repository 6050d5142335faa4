"""Seconds over a number that doubles, a line for each policy, a panel for each model: as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COLOURS = {"joining": "#1b6ca8", "tails": "#c8553d", "slices": "#2a9d5c"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, LOW = 640, 300, 60, 80, 40, 250
TICKS = 5

Lines = Mapping[str, Mapping[int, float]]
"""Seconds by policy and by the number below."""


def chart(below: str, panels: Mapping[str, Lines]) -> str:
    """`below` says what the numbers are; panels by the model's name."""
    height = HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (title, lines) in enumerate(panels.items()):
        parts += [f'<g transform="translate(0 {index * HEIGHT})">', *_panel(title, below, lines), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, below: str, lines: Lines) -> list[str]:
    numbers = sorted({number for line in lines.values() for number in line})
    step = rounded(max(value for line in lines.values() for value in line.values()) * 1e3 / TICKS)
    most = step * (1 + math.floor(max(value for line in lines.values() for value in line.values()) * 1e3 / step))
    first, last = math.log(numbers[0]), math.log(numbers[-1])

    def x(number: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(number) - first) / max(last - first, 1e-9)

    def y(ms: float) -> float:
        return LOW - (LOW - TOP) * ms / most

    parts = [
        f'<text x="{LEFT}" y="{TOP - 18}">{title}: ms for a batch</text>',
        f'<text x="{LEFT}" y="{LOW + 38}">{below}</text>',
    ]
    parts += [f'<text x="{x(number):.0f}" y="{LOW + 18}" text-anchor="middle">{number}</text>' for number in numbers]
    for tick in range(round(most / step) + 1):
        parts.append(f'<path d="M{LEFT} {y(tick * step):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick * step) + 4:.1f}" text-anchor="end">{tick * step:g}</text>')
    ends: list[float] = []
    for name, line in lines.items():
        points = " ".join(f"{x(number):.1f},{y(line[number] * 1e3):.1f}" for number in sorted(line))
        end = _free(y(line[max(line)] * 1e3) + 4, ends)
        ends.append(end)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{end:.1f}" fill="{COLOURS[name]}">{name}</text>')
    return parts


def _free(wanted: float, taken: Sequence[float]) -> float:
    """The nearest place above where a name covers no other."""
    while any(abs(wanted - other) < 14 for other in taken):
        wanted -= 2
    return wanted


def rounded(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)
