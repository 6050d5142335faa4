"""Latency against devices as SVG: a bar for each way, split into what the lead computes, waits for, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.policies.chart import rounded

WIDTH, HEIGHT, LEFT, RIGHT, TOP, LOW = 720, 340, 60, 20, 50, 280
COLOURS = {"compute": "#1b6ca8", "exchange": "#c8553d", "hand-over, queue": "#b8b8b8"}
TICKS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """Milliseconds of one request."""

    way: str
    devices: int
    compute: float
    exchange: float
    rest: float

    @property
    def whole(self) -> float:
        return self.compute + self.exchange + self.rest


def chart(title: str, bars: Sequence[Bar]) -> str:
    step = rounded(max(bar.whole for bar in bars) / TICKS)
    most = step * (TICKS + 1)
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18">{title}</text>',
    ]
    for place, (name, colour) in enumerate(COLOURS.items()):
        parts.append(f'<rect x="{LEFT + place * 150}" y="26" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + place * 150 + 14}" y="35">{name}</text>')
    for tick in range(TICKS + 2):
        y = LOW - (LOW - TOP) * tick * step / most
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick * step:g}</text>')
    for place, bar in enumerate(bars):
        x, y = LEFT + slot * (place + 0.2), float(LOW)
        for amount, colour in zip((bar.compute, bar.exchange, bar.rest), COLOURS.values(), strict=True):
            height = (LOW - TOP) * amount / most
            y -= height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{slot * 0.6:.1f}" height="{height:.1f}" fill="{colour}"/>'
            )
        middle = x + slot * 0.3
        parts.append(f'<text x="{middle:.1f}" y="{y - 5:.1f}" text-anchor="middle">{bar.whole:.0f}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{LOW + 18}" text-anchor="middle">{bar.way}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{LOW + 34}" text-anchor="middle">{bar.devices}</text>')
    parts.append(f'<text x="{LEFT}" y="{LOW + 54}">ms a request, by way and number of devices</text>')
    return "\n".join([*parts, "</svg>", ""])
