"""Whether a lab can be made here, and what labs of dead processes left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tests.lab.device import Device
from tests.lab.discovery import NoGroups, find_groups, remove_stale_groups
from tests.lab.homes import remove_stale_homes
from tests.lab.network import remove_stale_namespaces, why_no_network, why_no_rates


def why_no_lab(devices: Sequence[Device] = ()) -> str | None:
    """Why these devices, or any, cannot be made here, or None."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if reason := why_no_network():
        return reason
    if any(device.link_bits_per_s for device in devices) and (reason := why_no_rates()):
        return reason
    return _why_no_groups() if any(device.is_limited for device in devices) else None


def remove_stale() -> None:
    """Remove what labs of processes that are no more have left, their processes first."""
    remove_stale_groups()
    remove_stale_namespaces()
    remove_stale_homes()


def _why_no_groups() -> str | None:
    try:
        find_groups()
    except NoGroups as missing:
        return str(missing)
    return None
