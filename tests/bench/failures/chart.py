"""Accuracy over the replicated fraction, a line for each scheme, a panel for each number of missing devices: as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping

COLOURS = {
    "even": "#888888",
    "columns": "#c8553d",
    "columns-worth": "#e0a030",
    "heads": "#2a9d5c",
    "worth": "#1b6ca8",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, LOW = 640, 260, 60, 110, 40, 210

Lines = Mapping[str, Mapping[float, float]]
"""Accuracy by scheme and by r."""


def chart(panels: Mapping[str, Lines]) -> str:
    height = HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (title, lines) in enumerate(panels.items()):
        parts += [f'<g transform="translate(0 {index * HEIGHT})">', *_panel(title, lines), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, lines: Lines) -> list[str]:
    values = [value for line in lines.values() for value in line.values()]
    step = 0.05 if max(values) - min(values) < 0.4 else 0.1
    least, most = step * math.floor(min(values) / step), step * math.ceil(max(values) / step)

    def x(r: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * r

    def y(value: float) -> float:
        return LOW - (LOW - TOP) * (value - least) / max(most - least, step)

    parts = [
        f'<text x="{LEFT}" y="{TOP - 18}">{title}</text>',
        f'<text x="{LEFT}" y="{LOW + 36}">replicated fraction r of the blocks; equal memory at the requester</text>',
    ]
    fractions = sorted({r for line in lines.values() for r in line})
    parts += [f'<text x="{x(r):.0f}" y="{LOW + 18}" text-anchor="middle">{r:g}</text>' for r in fractions]
    for tick in range(round((most - least) / step) + 1):
        value = least + tick * step
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    for place, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{x(r):.1f},{y(line[r]):.1f}" for r in sorted(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        height = TOP + 20 + 18 * place
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{height}" fill="{COLOURS[name]}">{name}</text>')
    return parts
