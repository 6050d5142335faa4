"""`swarm bench`: how fast this device is, how its links are, and what each stage of a model takes here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.bench import Bench
from swarm.cli import loop, show
from swarm.cli.plan import company
from swarm.peer import Peer
from swarm.types import View


def run(peer: Peer, models: Sequence[str], wait_s: float, *, as_json: bool) -> None:
    loop.run(_bench(peer, models, wait_s, as_json))


async def _bench(peer: Peer, models: Sequence[str], wait_s: float, as_json: bool) -> None:
    async with peer:
        with show.progress(as_json) as progress:
            await company(peer, wait_s)
            progress("Measuring this device and its links", None)
            found = await peer.bench(models, progress=progress)
        view = peer.view()
    if as_json:
        show.print_json(_report(found, view))
    else:
        _print(found, view)


def _report(found: Bench, view: View) -> dict[str, Any]:
    profile = found.profile
    return {
        "device": profile.device,
        "platform": profile.platform,
        "threads": profile.threads,
        "memory_total_bytes": profile.memory_total_bytes,
        "memory_free_bytes": profile.memory_free_bytes,
        "flops_per_s": dict(profile.flops_per_s),
        "memory_bytes_per_s": profile.memory_bytes_per_s,
        "ask_s": profile.ask_s,
        "step_s": profile.step_s,
        "wire_elements_per_s": dict(profile.wire_elements_per_s),
        "links": [
            {"peer": show.name_of(view, peer), "rtt_s": link.rtt_s, "bytes_per_s": link.bytes_per_s}
            for peer, link in sorted(found.links.items())
        ],
        "stages": {
            model: [{"stage": name, "seconds": seconds} for name, seconds in stages]
            for model, stages in found.stages.items()
        },
    }


def _print(found: Bench, view: View) -> None:
    from rich.console import Console

    profile, console = found.profile, Console()
    rows = [(f"matrix products, {dtype}", f"{rate / 1e9:.1f} GFLOP/s") for dtype, rate in profile.flops_per_s.items()]
    rows += [
        ("memory read", f"{profile.memory_bytes_per_s / 1e9:.1f} GB/s"),
        ("memory free", f"{profile.memory_free_bytes / 1e9:.1f} of {profile.memory_total_bytes / 1e9:.1f} GB"),
        ("asking", show.milliseconds(profile.ask_s)),
        ("a step beside its compute", show.milliseconds(profile.step_s)),
    ]
    rows += [(f"tensors to and from {w}", f"{r / 1e6:.0f} M/s") for w, r in profile.wire_elements_per_s.items()]
    console.print(show.table((profile.device, profile.platform), rows, "This device"))
    links = [
        (show.name_of(view, peer), show.milliseconds(link.rtt_s), f"{link.bytes_per_s * 8 / 1e6:.1f} Mbit/s")
        for peer, link in sorted(found.links.items())
    ]
    if links:
        console.print(show.table(("to", "round trip", "bandwidth"), links, "Its links"))
    for model, times in found.stages.items():
        stages = [(name, show.milliseconds(seconds)) for name, seconds in times]
        console.print(show.table(("stage", "one picture"), stages, f"Stages of {model}"))
