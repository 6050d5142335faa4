"""A LAN in a box: network namespaces on one bridge, for tests that need real multicast, real links, pulled cables.

Everything is named after the process that made it (`swl<pid>…`), goes when the `with` ends or the process exits, and a
later run removes what a killed one left behind. Nothing outside these namespaces is touched, and nothing inside them
can reach the machine's own network.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

PREFIX = "swl"
_numbers = count()


class Lab:
    """`size` devices with one wired LAN between them.

    Device i (from 0) is a namespace whose `eth0` has `lab.address(i)`, 10.77.0.(i+1)/24, and a multicast route, so that
    mDNS works. It is a device for the network only: files and processes are shared. ::

        with Lab(3) as lab:
            lab.popen(0, [sys.executable, "-m", "swarm", "join"])       # a process on device 0
            lab.unplug(2); lab.plug(2)                                  # its cable
            lab.shape(1, "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms")

    Processes started with `popen` get SIGKILL when the lab closes; stop them before, if they should leave cleanly.
    Skips the test, with the reason, where namespaces cannot be made (not Linux, not root, no `ip`).
    At most 32 devices: all namespaces of a machine share one ARP table.
    """

    def __init__(self, size: int) -> None:
        if not 1 <= size <= 32:
            raise ValueError("a lab has 1 to 32 devices")
        self.size = size
        self._tag = f"{PREFIX}{os.getpid()}x{next(_numbers)}"
        self._running: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Lab:
        if reason := why_no_lab():
            pytest.skip(reason)
        remove_stale()
        atexit.register(self.close)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes and remove all namespaces and links; idempotent."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._running.clear()
        _remove(self._tag)
        atexit.unregister(self.close)

    def namespace(self, device: int) -> str:
        return f"{self._tag}n{device}"

    def address(self, device: int) -> str:
        return f"10.77.0.{device + 1}"

    def popen(self, device: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` on a device; `options` are those of `subprocess.Popen`."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace(device), *argv], **options)
        self._running.append(process)
        return process

    def unplug(self, device: int) -> None:
        """Pull the cable at the switch's end: packets vanish both ways, and neither side is told."""
        _ip("-n", self._hub, "link", "set", f"p{device}", "nomaster")

    def plug(self, device: int) -> None:
        """Put the cable back in."""
        _ip("-n", self._hub, "link", "set", f"p{device}", "master", "hub")

    def shape(self, device: int, *qdisc: str) -> None:
        """Replace the root qdisc of the device's uplink, as `tc qdisc` words it. Not every kernel has netem."""
        _ip("netns", "exec", self.namespace(device), "tc", "qdisc", "replace", "dev", "eth0", "root", *qdisc)

    @property
    def _hub(self) -> str:
        return f"{self._tag}hub"

    def _build(self) -> None:
        """The bridge lives in a namespace too, so the machine's own firewall and links never see a packet."""
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "hub", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        _ip("-n", self._hub, "link", "set", "hub", "up")
        for device in range(self.size):
            self._add(device)

    def _add(self, device: int) -> None:
        here, port = self.namespace(device), f"p{device}"
        _ip("netns", "add", here)
        _ip("-n", self._hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", here)
        _ip("-n", self._hub, "link", "set", port, "master", "hub", "up")
        _ip("-n", here, "link", "set", "lo", "up")
        _ip("-n", here, "addr", "add", f"{self.address(device)}/24", "dev", "eth0")
        _ip("-n", here, "link", "set", "eth0", "up")
        _ip("-n", here, "route", "add", "224.0.0.0/4", "dev", "eth0")


def why_no_lab() -> str | None:
    """Why namespaces cannot be made here, or None."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (iproute2)"
    probe = f"{PREFIX}{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, timeout=10)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, timeout=10)
    return None if made.returncode == 0 else f"network namespaces cannot be made here: {made.stderr.strip()}"


def remove_stale() -> None:
    """Remove what labs of processes that are no more have left."""
    for namespace in _namespaces():
        owner = re.match(rf"{PREFIX}(\d+)", namespace)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _delete(namespace)


def _remove(tag: str) -> None:
    for namespace in _namespaces():
        if re.fullmatch(rf"{tag}(n\d+|hub)", namespace):
            _delete(namespace)


def _delete(namespace: str) -> None:
    """End what still runs in it, then remove it; its links go with it."""
    inside = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=10)
    for pid in inside.stdout.split():
        try:
            os.kill(int(pid), 9)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=10)


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10)
    return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]


def _ip(*words: str) -> None:
    result = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {result.stderr.strip()}")
