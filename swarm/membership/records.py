"""Which peer records may enter: the bounds that every honest one keeps.

Types are checked when a message is unpacked; sizes and numbers here, because a record that got in is passed on to
everybody. Strings end up on terminals, so they must be printable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from swarm.membership.messages import Changes
from swarm.types import PeerProfile, PeerRecord

MAX_COUNT = 2**62
MAX_LEAP = 2**52
"""Incarnations and versions are microseconds since 1970, about 2**51; a device without a clock starts near 0."""
MAX_RECORD_BYTES = 64 * 1024
MAX_PART_NAME = 512

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
        and 0 <= record.load.queued <= MAX_COUNT
        and 0 <= record.load.busy <= 1
        and weight_bytes(record) <= MAX_RECORD_BYTES
    )


def _is_sound_profile(profile: PeerProfile) -> bool:
    rates: Mapping[str, float] = profile.flops_per_s
    counts = (profile.threads, profile.memory_total_bytes, profile.memory_free_bytes)
    return (
        all(0 <= count <= MAX_COUNT for count in counts)
        and _is_name(profile.device)
        and _is_name(profile.platform)
        and len(rates) <= 32
        and all(_is_name(dtype) and math.isfinite(rate) and rate >= 0 for dtype, rate in rates.items())
    )


def weight_bytes(record: PeerRecord | Changes) -> int:
    """About what it takes on the wire."""
    holds = record.holds or ()
    addresses = record.addresses or ()
    rates = record.profile.flops_per_s if record.profile else ()
    texts = (*holds, *(a.host for a in addresses), *rates)
    return len("".join(texts).encode()) + 16 * len(texts) + 2048


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= 128 and text.isprintable()
