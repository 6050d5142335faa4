"""Emulated devices as one `with` block, for tests and benchmarks of whole swarms.

Everything is named after the process that made it (`swl<pid>…`), goes when the block or the process ends, and a later
run removes what a killed one left behind. Nothing outside is touched; nothing inside can reach the machine's network.
"""

from __future__ import annotations

import atexit
import math
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import pytest

from tests.lab.device import Device
from tests.lab.discovery import NoGroups, find_groups
from tests.lab.groups import Groups
from tests.lab.homes import make_home, remove_homes
from tests.lab.names import new_tag
from tests.lab.network import Network
from tests.lab.stale import remove_stale, why_no_lab

LARGEST = 32


class Lab:
    """Devices with one wired LAN between them.

    Device i (from 0) is a namespace whose `eth0` has `lab.address(i)`, 10.77.0.(i+1)/24, and a multicast route, so that
    mDNS works. A lab of a number is for the network only; one of `Device` words also limits CPU and memory. ::

        with Lab(3) as lab:
            lab.popen(0, [sys.executable, "-m", "swarm", "join"])       # a process on device 0
            lab.unplug(2); lab.plug(2)                                  # its cable
        with Lab(presets.hetero, homes=True) as lab:
            lab.relink(1, 10_000_000)                                   # the link collapses
            lab.limit(2, cpu=0.05)                                      # the device is busy elsewhere

    Processes started with `popen` get SIGKILL when the lab closes; stop them before, if they should leave cleanly.
    Skips the test, with the reason, where such devices cannot be made (not Linux, not root, no `ip`, no cgroups…).
    At most 32 devices: all namespaces of a machine share one ARP table.

    :param homes: each device has a user's folders of its own, in `env`; otherwise all share this process's.
    """

    def __init__(self, devices: int | Sequence[Device], *, homes: bool = False) -> None:
        self.devices = [Device()] * devices if isinstance(devices, int) else list(devices)
        if not 1 <= len(self.devices) <= LARGEST:
            raise ValueError(f"a lab has 1 to {LARGEST} devices")
        self.size = len(self.devices)
        self._grouped = not isinstance(devices, int)
        self._homes: list[dict[str, str]] | None = [] if homes else None
        self._tag = new_tag()
        self._network = Network(self._tag, self.size)
        self._groups: Groups | None = None
        self._running: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Lab:
        if reason := why_no_lab(self.devices):
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
        """Kill the processes and remove all groups, namespaces, links and homes; idempotent."""
        if self._groups:
            for device in range(self.size):
                self._groups.remove(self._group(device))
        self._network.remove()
        for process in self._running:  # last: a reader's thread holds a pipe until all who write to it are dead
            _end(process)
        self._running.clear()
        remove_homes(self._tag)
        atexit.unregister(self.close)

    @property
    def hub(self) -> str:
        """The namespace of the bridge; `p<i>` in it is the switch's end of device i's cable."""
        return self._network.hub

    def namespace(self, device: int) -> str:
        return self._network.namespace(device)

    def address(self, device: int) -> str:
        return self._network.address(device)

    def env(self, device: int) -> dict[str, str]:
        """This process's variables, with the device's own folders if it has a home.

        With a CPU share, libraries start no more threads than it has cores to run them on.
        """
        share = self.devices[device].cpu
        threads = {} if share is None else {"OMP_NUM_THREADS": str(math.ceil(share))}
        home = self._homes[device] if self._homes else {}
        return {**os.environ, "SWARM_INTERFACE": "", **threads, **home}

    def popen(self, device: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` on a device; `options` are those of `subprocess.Popen`. The process becomes `argv`'s program.

        Its variables are `env(device)`, unless `env` says otherwise or the lab is of a number without homes.
        """
        if self._grouped or self._homes:
            options.setdefault("env", self.env(device))
        process = subprocess.Popen([*self._entering(device), *argv], **options)
        self._running.append(process)
        return process

    def run(
        self, device: int, argv: Sequence[str], timeout_s: float, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` to its end, and return what it said.

        :raises subprocess.TimeoutExpired: it took longer, and was killed.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = self.popen(device, argv, **pipes)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def unplug(self, device: int) -> None:
        """Pull the cable at the switch's end: packets vanish both ways, and neither side is told."""
        self._network.unplug(device)

    def plug(self, device: int) -> None:
        """Put the cable back in."""
        self._network.plug(device)

    def relink(self, device: int, bits_per_s: int | None) -> None:
        """Change the rate of its cable at once, both ways; None is without a limit."""
        self.devices[device] = replace(self.devices[device], link_bits_per_s=bits_per_s)
        self._network.relink(device, bits_per_s)

    def shape(self, device: int, *qdisc: str) -> None:
        """Replace the root qdisc of the device's uplink, as `tc qdisc` words it. Not every kernel has netem."""
        self._network.shape(device, *qdisc)

    def limit(
        self,
        device: int,
        *,
        cpu: float | EllipsisType | None = ...,
        memory_bytes: int | EllipsisType | None = ...,
    ) -> None:
        """Change a device's limits at once, running processes included; what is not given stays, None takes it away.

        :raises RuntimeError: the lab was made of a number, or this machine has no cgroups.
        """
        if self._groups is None:
            raise RuntimeError("only a lab of Device words, on a machine with cgroups, can limit CPU and memory")
        now = self.devices[device]
        now = now if isinstance(cpu, EllipsisType) else replace(now, cpu=cpu)
        now = now if isinstance(memory_bytes, EllipsisType) else replace(now, memory_bytes=memory_bytes)
        self._groups.limit(self._group(device), now.cpu, now.memory_bytes)
        self.devices[device] = now

    def _group(self, device: int) -> str:
        return f"{self._tag}n{device}"

    def _build(self) -> None:
        self._network.build()
        for number, device in enumerate(self.devices):
            if device.link_bits_per_s is not None:
                self._network.relink(number, device.link_bits_per_s)
            if self._homes is not None:
                self._homes.append(make_home(self._tag, number))
        if self._grouped:
            self._build_groups()

    def _build_groups(self) -> None:
        try:
            self._groups = find_groups()
        except NoGroups:
            return  # `why_no_lab` let it pass: no device has a limit
        for number, device in enumerate(self.devices):
            self._groups.add(self._group(number))
            self._groups.limit(self._group(number), device.cpu, device.memory_bytes)

    def _entering(self, device: int) -> list[str]:
        """Into the group first, for inside the namespace it is not to be seen. Each `exec` keeps the process."""
        network = ["ip", "netns", "exec", self.namespace(device)]
        if self._groups is None:
            return network
        doors = [f"echo $$ > {shlex.quote(str(door))}" for door in self._groups.entrances(self._group(device))]
        return ["sh", "-c", " && ".join([*doors, 'exec "$@"']), "sh", *network]


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
