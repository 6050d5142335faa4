"""What this device can do, measured on purpose: its rates anew, its links, and the stages of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.holdings import Holdings
from swarm.portrait import Portrait
from swarm.ranging import Ranging
from swarm.types import Link, PeerId, PeerProfile, View
from swarm.workshop import Progress, Workshop

LINKS_S = 20.0


@dataclass(frozen=True, slots=True)
class Bench:
    """The figures of one device."""

    profile: PeerProfile
    links: Mapping[PeerId, Link]
    stages: Mapping[str, tuple[tuple[str, float], ...]]
    """Of each model that was asked for, in order: name, and seconds for one sample; none if it cannot be timed."""


async def bench(
    portrait: Portrait,
    ranging: Ranging,
    workshop: Workshop,
    holdings: Holdings,
    view: View,
    models: Sequence[str],
    progress: Progress,
) -> Bench:
    """Measure, keep for later runs, and tell. Raises `SwarmError` when this device cannot compute."""
    profile = await portrait.measured(fresh=True)
    await ranging.measure([host.id for host in view.hosts() if host.id != view.me], LINKS_S)
    links = {peer: link for peer, link in ranging.links().items() if view.find(peer) is not None}
    stages = {model: await _stages(workshop, holdings, model, progress) for model in models}
    return Bench(profile, links, stages)


async def _stages(
    workshop: Workshop, holdings: Holdings, model: str, progress: Progress
) -> tuple[tuple[str, float], ...]:
    blueprint = await workshop.study(model, progress)
    progress(f"Timing the stages of {model}", None)
    times = await workshop.time_stages(blueprint, holdings.batcher.in_worker, holdings.free_bytes) or ()
    return tuple(zip((stage.name for stage in blueprint.profile.stages), times, strict=False))
