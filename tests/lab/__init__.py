"""Emulated devices: each with a link, a share of a core, a memory limit and files of its own, on one wired LAN.

    device    what a device is                     presets   a Pi, a laptop, swarms of them
    network   namespaces, bridge, link rates       groups    CPU share and memory, by cgroups v1 or v2
    homes     a user's folders for each device     names     whose is it, and is its owner dead
    lab       all of them as one `with` block      stale     what killed labs left behind

`python -m tests.lab hetero -- COMMAND…` runs a command on every device of a preset.
"""

from tests.lab.device import Device
from tests.lab.lab import Lab
from tests.lab.network import ip, namespaces
from tests.lab.stale import remove_stale, why_no_lab

__all__ = ["Device", "Lab", "ip", "namespaces", "remove_stale", "why_no_lab"]
