"""One wired LAN of network namespaces around a bridge, which lives in a namespace too: the machine's own firewall and
links never see a packet. Link rates are token buckets, one each way."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.lab.names import is_of, is_stale, probe_name

# Of a bucket, what is sent at once: as little as the rate allows, for a message that fits into it takes no time at all.
# Measured: 1 ms of the rate reaches 95 % of 1 Gbit/s, where half of it reaches 82-94 %; 16 KB is ten packets.
BURST_S = 0.001
MINIMUM_BURST_BYTES = 16_384
QUEUE_MS = 50
_TC = ("tc", "qdisc", "replace", "dev")


class Network:
    """`size` namespaces; number i has `eth0` at 10.77.0.(i+1)/24, and multicast goes there."""

    def __init__(self, tag: str, size: int) -> None:
        self.hub = f"{tag}hub"
        self._tag, self._size = tag, size

    def namespace(self, device: int) -> str:
        return f"{self._tag}n{device}"

    def address(self, device: int) -> str:
        return f"10.77.0.{device + 1}"

    def build(self) -> None:
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "hub", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        ip("-n", self.hub, "link", "set", "hub", "up")
        for device in range(self._size):
            self._add(device)

    def remove(self) -> None:
        """End what still runs in the namespaces, then remove them; idempotent."""
        for name in namespaces():
            if is_of(name, self._tag):
                _delete(name)

    def unplug(self, device: int) -> None:
        ip("-n", self.hub, "link", "set", f"p{device}", "nomaster")

    def plug(self, device: int) -> None:
        ip("-n", self.hub, "link", "set", f"p{device}", "master", "hub")

    def relink(self, device: int, bits_per_s: int | None) -> None:
        """The rate of a cable, both ways; None is as fast as the machine can."""
        qdisc = ("noqueue",) if bits_per_s is None else _bucket(bits_per_s)
        self.shape(device, *qdisc)
        ip("netns", "exec", self.hub, *_TC, f"p{device}", "root", *qdisc)

    def shape(self, device: int, *qdisc: str) -> None:
        ip("netns", "exec", self.namespace(device), *_TC, "eth0", "root", *qdisc)

    def _add(self, device: int) -> None:
        here, port = self.namespace(device), f"p{device}"
        ip("netns", "add", here)
        ip("-n", self.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", here)
        ip("-n", self.hub, "link", "set", port, "master", "hub", "up")
        ip("-n", here, "link", "set", "lo", "up")
        ip("-n", here, "addr", "add", f"{self.address(device)}/24", "dev", "eth0")
        ip("-n", here, "link", "set", "eth0", "up")
        ip("-n", here, "route", "add", "224.0.0.0/4", "dev", "eth0")


def why_no_network() -> str | None:
    """Why namespaces cannot be made here, or None."""
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (iproute2)"
    made = _quietly("ip", "netns", "add", probe_name())
    _quietly("ip", "netns", "del", probe_name())
    return None if made.returncode == 0 else f"network namespaces cannot be made here: {made.stderr.strip()}"


def why_no_rates() -> str | None:
    """Why links cannot be slowed down here, or None."""
    if shutil.which("tc") is None:
        return "link rates need `tc` (iproute2)"
    ip("netns", "add", probe_name())
    shaped = _quietly("ip", "netns", "exec", probe_name(), *_TC, "lo", "root", *_bucket(1_000_000))
    _quietly("ip", "netns", "del", probe_name())
    return None if shaped.returncode == 0 else f"link rates need tc's tbf: {shaped.stderr.strip()}"


def remove_stale_namespaces() -> None:
    for name in namespaces():
        if is_stale(name):
            _delete(name)


def namespaces() -> list[str]:
    """All named network namespaces of this machine."""
    return [line.split()[0] for line in _quietly("ip", "netns", "list").stdout.splitlines() if line.strip()]


def ip(*words: str) -> None:
    """:raises RuntimeError: what `ip` said."""
    result = _quietly("ip", *words)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {result.stderr.strip()}")


def _bucket(bits_per_s: int) -> tuple[str, ...]:
    burst = max(MINIMUM_BURST_BYTES, int(bits_per_s / 8 * BURST_S))
    return "tbf", "rate", f"{bits_per_s}bit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms"


def _delete(namespace: str) -> None:
    """End what still runs in it, then remove it; its links go with it."""
    for pid in _quietly("ip", "netns", "pids", namespace).stdout.split():
        try:
            os.kill(int(pid), 9)
        except ProcessLookupError:
            continue
    _quietly("ip", "netns", "del", namespace)


def _quietly(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=10)
