"""Which peer records may enter: the bounds that every honest one keeps.

Types are checked when a message is unpacked; sizes and numbers here, because a record that got in is passed on to
everybody. Strings end up on terminals, so they must be printable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from swarm.membership.messages import Changes
from swarm.types import Link, PeerLoad, PeerProfile, PeerRecord

MAX_COUNT = 2**62
MAX_LEAP = 2**52
"""Incarnations and versions are microseconds since 1970, about 2**51; a device without a clock starts near 0."""
MAX_RECORD_BYTES = 64 * 1024
MAX_PART_NAME = 512
MAX_LOADING = 64
MAX_DTYPES = 32
MAX_LINKS = 64
MAX_RATE = 1e18
MAX_SECONDS = 1e9
MAX_AT_ONCE = 1e6
LINK_BYTES = 32
"""Two numbers and their names."""

_PEER_ID = re.compile(r"[0-9a-f]{32}")


def is_sound(record: PeerRecord) -> bool:
    """Within the bounds that every honest record keeps; others must not enter, for their size or their numbers."""
    return (
        _PEER_ID.fullmatch(record.id) is not None
        and _is_name(record.name)
        and 0 <= record.incarnation <= MAX_COUNT
        and 0 <= record.version <= MAX_COUNT
        and len(record.addresses) <= 16
        and all(_is_name(a.host) and 0 < a.port <= 65535 for a in record.addresses)
        and len(record.holds) <= 256
        and all(1 <= len(name) <= MAX_PART_NAME and name.isprintable() for name in record.holds)
        and _is_sound_profile(record.profile)
        and _is_sound_load(record.load)
        and weight_bytes(record) <= MAX_RECORD_BYTES
    )


def _is_sound_profile(profile: PeerProfile) -> bool:
    counts = (profile.threads, profile.memory_total_bytes, profile.memory_free_bytes)
    return (
        all(0 <= count <= MAX_COUNT for count in counts)
        and _is_name(profile.device)
        and _is_name(profile.platform)
        and _are_sound_rates(profile.flops_per_s)
        and _are_sound_rates(profile.wire_elements_per_s)
        and _is_number(profile.memory_bytes_per_s, MAX_RATE)
        and _is_number(profile.ask_s, MAX_SECONDS)
        and _is_number(profile.step_s, MAX_SECONDS)
        and len(profile.links) <= MAX_LINKS
        and all(_PEER_ID.fullmatch(peer) and _is_sound_link(link) for peer, link in profile.links.items())
    )


def _is_sound_load(load: PeerLoad) -> bool:
    return (
        0 <= load.queued <= MAX_COUNT
        and _is_number(load.busy, 1.0)
        and _is_number(load.wait_s, MAX_SECONDS)
        and _is_number(load.at_once, MAX_AT_ONCE)
        and len(load.loading) <= MAX_LOADING
        and all(1 <= len(name) <= MAX_PART_NAME and name.isprintable() for name in load.loading)
        and all(_is_number(fraction, 1.0) for fraction in load.loading.values())
    )


def _are_sound_rates(rates: Mapping[str, float]) -> bool:
    """By dtype."""
    return len(rates) <= MAX_DTYPES and all(
        _is_name(dtype) and _is_number(rate, MAX_RATE) for dtype, rate in rates.items()
    )


def _is_sound_link(link: Link) -> bool:
    return _is_number(link.rtt_s, MAX_SECONDS) and _is_number(link.bytes_per_s, MAX_RATE)


def _is_number(value: float, most: float) -> bool:
    """Not NaN, not infinite, not negative."""
    return 0 <= value <= most


def weight_bytes(record: PeerRecord | Changes) -> int:
    """About what it takes on the wire."""
    holds = record.holds or ()
    addresses = record.addresses or ()
    profile = record.profile
    rates = (*profile.flops_per_s, *profile.wire_elements_per_s) if profile else ()
    links = profile.links if profile else ()
    loading = record.load.loading if record.load else ()
    texts = (*holds, *(a.host for a in addresses), *rates, *links, *loading)
    return len("".join(texts).encode()) + 16 * len(texts) + LINK_BYTES * len(links) + 2048


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= 128 and text.isprintable()
