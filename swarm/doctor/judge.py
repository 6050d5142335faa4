"""Facts in, findings out: the likeliest cause first, and one next step."""

from __future__ import annotations

from typing import Final

from swarm.doctor import device, others
from swarm.doctor.words import Facts, Finding, Level, Report

_LOOKS: Final = (
    *(device.networks, device.clock, device.trust, device.container, device.wsl, device.multicast, device.door),
    *(others.sees, others.twins, others.versions, others.failures, others.strangers, others.nobody),
)

ORDER: Final = (
    *("no-network", "only-tunnels", "clock", "loose-permissions", "secret-unusable", "no-secret"),
    *("container", "wsl", "self-assigned", "local-permission", "multicast-blocked", "multicast-unheard"),
    *("own-firewall", "loopback-only", "twin", "version", "clock-here", "clock-there"),
    *("turned-away", "other-swarm", "open-there", "secured-there", "no-route", "forbidden"),
    *("other-network", "isolated", "peer-firewall", "busy", "not-a-peer", "refused", "silent"),
    *("unknown-name", "unknown", "nobody", "multicast-filtered", "no-multicast-flag", "port-taken", "namesake"),
    *("sees", "network", "trust", "multicast", "door"),
)
"""All codes of findings. A cause stands before what follows from it: without a network nobody answers either."""


def judge(facts: Facts) -> Report:
    """Findings by gravity, then by `ORDER`."""
    found = [finding for look in _LOOKS for finding in look(facts)]
    found.sort(key=lambda finding: (finding.level, ORDER.index(finding.code)))
    return Report(tuple(found), _next_step(facts, found[0]), facts.seen)


def _next_step(facts: Facts, first: Finding) -> str:
    if first.level is not Level.OK:
        return first.cure
    return "Nothing to do." if facts.seen else "Nothing is wrong here; run `swarm join` on this device and on others."
