"""Devices and swarms to test on, relative to one core of the machine that runs them.

A share stands for what a device computes in float32, *relative to its neighbours*: the ratios matter, the absolute
speed is that of this machine. They are estimates from arithmetic units, not measurements of these devices:

    pi4      0.12  a Cortex-A72 does 8 FLOP a cycle at 1.5 GHz: 12 GFLOP/s, against about 100 for a core of a PC that
                   does 32 a cycle at a sustained 3 GHz. One core: four share a memory bus that feeds little more
    pi5      0.35  a Cortex-A76 does 16 FLOP a cycle at 2.4 GHz: 38 GFLOP/s
    jetson   0.50  a small board with faster memory; its GPU has no likeness here
    laptop   1.00  one core of this machine
    desktop  1.50  one and a half

Memory is that of small models of these devices, so that a machine of 16 GB can hold a swarm: it is a limit, not a
reservation. All have a wired gigabit link; make slower ones with `dataclasses.replace`. A lab is honest only while its
shares add up to no more than the machine has: `mixed` fits two cores, `pis` up to sixteen.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.lab.device import Device

GIBIBYTE = 1024**3
GIGABIT = 1_000_000_000

pi4 = Device(0.12, 1 * GIBIBYTE, GIGABIT, "pi4")
pi5 = Device(0.35, 2 * GIBIBYTE, GIGABIT, "pi5")
jetson = Device(0.5, 4 * GIBIBYTE, GIGABIT, "jetson")
laptop = Device(1.0, 4 * GIBIBYTE, GIGABIT, "laptop")
desktop = Device(1.5, 8 * GIBIBYTE, GIGABIT, "desktop")

mixed: Sequence[Device] = (pi4, pi5, jetson, laptop)
hetero: Sequence[Device] = tuple(
    Device(share, 2 * GIBIBYTE, GIGABIT, f"share{share * 100:.0f}") for share in (0.4, 0.2, 0.2, 0.1)
)


def pis(count: int) -> Sequence[Device]:
    """So many Pi 4."""
    return (pi4,) * count


def named(text: str) -> Sequence[Device]:
    """The swarm that a command line names: a preset (`mixed`), a device (`pi4`), or several of it (`pi4:8`).

    :raises KeyError: there is none of that name.
    """
    swarms = {"mixed": mixed, "hetero": hetero}
    devices = {device.name: device for device in (pi4, pi5, jetson, laptop, desktop)}
    name, _, count = text.partition(":")
    return swarms[text] if text in swarms else (devices[name],) * int(count or 1)
