"""`python -m tests.lab SWARM [options] [-- COMMAND…]`: emulated devices on a command line; Linux, root.

    python -m tests.lab hetero                                  the table of its devices, if they can be made here
    python -m tests.lab pi4:4 --link 100mbit -- python -V       on every device
    python -m tests.lab mixed --on 2 -- ping -c 1 10.77.0.1     on device 2
    python -m tests.lab 3 --cpu 0.2 -- echo '{i} is at {address}'

SWARM is a preset (`mixed`, `hetero`), so many of a device (`pi4:4`; pi4, pi5, jetson, laptop, desktop), or a number.
Every device has a home of its own. The exit code is the first that is not 0. Ctrl-C and SIGTERM clean up.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.lab import Device, Lab, presets, why_no_lab

UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "kb": 2**10, "mb": 2**20, "gb": 2**30}


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def amount(text: str) -> int:
    """`100mbit` or `512mb` as a number of bits or bytes."""
    found = re.fullmatch(r"([\d.]+)([kmg]?bit|[kmg]b)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount like 100mbit or 512mb")
    return int(float(found[1]) * UNITS[found[2]])


def swarm_of(text: str) -> Sequence[Device]:
    try:
        return (Device(),) * int(text) if text.isdigit() else presets.named(text)
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"there is no swarm {text!r}; see --help") from None


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("swarm", type=swarm_of, metavar="SWARM")
    parser.add_argument("--link", type=amount, metavar="RATE", help="of every cable, each way: 100mbit")
    parser.add_argument("--cpu", type=float, metavar="SHARE", help="of a core, for every device: 0.2")
    parser.add_argument("--memory", type=amount, metavar="BYTES", help="of every device: 512mb")
    parser.add_argument("--on", type=int, metavar="I", help="run the command on this device only")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="end it after so long (600)")
    end = argv.index("--") if "--" in argv else len(argv)
    parsed = parser.parse_args(argv[:end])
    parsed.command = list(argv[end + 1 :])
    if parsed.on is not None and not 0 <= parsed.on < len(parsed.swarm):
        parser.error(f"there is no device {parsed.on}: the swarm has {len(parsed.swarm)}, from 0")
    return parsed


def devices_of(given: argparse.Namespace) -> list[Device]:
    changes = {"cpu": given.cpu, "memory_bytes": given.memory, "link_bits_per_s": given.link}
    changes = {name: value for name, value in changes.items() if value is not None}
    return [replace(device, **changes) for device in given.swarm]


def show(lab: Lab) -> None:
    say(f"{'':2} {'device':10} {'address':12} {'share':>6} {'memory':>9} {'link':>12}")
    for i, device in enumerate(lab.devices):
        share = "-" if device.cpu is None else f"{device.cpu:.0%}"
        memory = "-" if device.memory_bytes is None else f"{device.memory_bytes / 2**20:.0f} MiB"
        link = "-" if device.link_bits_per_s is None else f"{device.link_bits_per_s / 1e6:g} Mbit/s"
        say(f"{i:2} {device.name:10} {lab.address(i):12} {share:>6} {memory:>9} {link:>12}")
    total, cores = sum(device.cpu or 0.0 for device in lab.devices), os.cpu_count() or 1
    if total > cores:
        say(f"The shares add up to {total:.2f} cores and this machine has {cores}: busy devices slow each other down.")


def run(lab: Lab, chosen: Sequence[int], command: Sequence[str], timeout_s: float) -> int:
    """Run it on these devices at once; their output as it comes, each line behind its device's number."""
    deadline = time.monotonic() + timeout_s
    started = {i: _start(lab, i, command) for i in chosen}
    readers = [threading.Thread(target=_relay, args=(i, process), daemon=True) for i, process in started.items()]
    for reader in readers:
        reader.start()
    try:
        codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in started.values()]
    except subprocess.TimeoutExpired:
        say(f"not done after {timeout_s:g} s")
        return 124
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    return next((code for code in codes if code), 0)


def _start(lab: Lab, i: int, command: Sequence[str]) -> subprocess.Popen[Any]:
    argv = [word.replace("{i}", str(i)).replace("{address}", lab.address(i)) for word in command]
    options: dict[str, Any] = {"text": True, "errors": "replace"}
    return lab.popen(i, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def _relay(i: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"[{i}]", line.rstrip("\n"))


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main(argv: Sequence[str]) -> int:
    given = arguments(argv)
    devices = devices_of(given)
    if reason := why_no_lab(devices):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with Lab(devices, homes=True) as lab:
            show(lab)
            chosen = range(lab.size) if given.on is None else [given.on]
            return run(lab, chosen, given.command, given.timeout) if given.command else 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
