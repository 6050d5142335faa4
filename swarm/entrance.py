"""How a device comes by its swarm's secret, and a peer by its identity.

given ─▶ SWARM_SECRET ─▶ kept in the configuration folder ─▶ nobody here: make one
                                                           ╲▶ a swarm is here: NotInvited, or ask for a code
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from swarm.discovery import look_around
from swarm.errors import BadInput, NotInvited
from swarm.identity import Keyring, check_private, read_secret
from swarm.interfaces import lan_addresses
from swarm.secret import Secret
from swarm.trust import Credentials, ephemeral
from swarm.types import Address

VARIABLE: Final = "SWARM_SECRET"
LOOK_S: Final = 2.0

OPEN_WARNING: Final = (
    "OPEN SWARM: nothing is encrypted, and anybody on this network can join it, read every tensor and use this device. "
    "For a bench network only; without --open devices are let in by a code."
)


@dataclass(frozen=True, slots=True)
class Held:
    """A secret that this device has already, and where from: only one that is kept can be changed for it."""

    secret: Secret
    source: Literal["file", "variable", "kept"]
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How many peers are announced here, of swarms that ask for a secret and of open ones."""

    secured: int = 0
    open: int = 0


def held(keyring: Keyring, file: Path | None = None) -> Held | None:
    """The secret in `file`, else the one in SWARM_SECRET, else the one that is kept; None without any. Reads files.

    Raises `BadInput` for a secret that is none, and for a kept one that others can read.
    """
    if file is not None:
        try:
            return Held(read_secret(file), "file", _warning(file))
        except FileNotFoundError:
            raise BadInput(f"There is no secret file {file}.") from None
    if text := os.environ.get(VARIABLE):
        return Held(Secret.parse(text, f"What {VARIABLE} holds"), "variable")
    kept = keyring.secret()
    return Held(kept, "kept") if kept is not None else None


async def survey(interfaces: Sequence[str], timeout_s: float = LOOK_S) -> Surroundings:
    """Look for swarms on these networks, or on all of the LAN's."""
    hosts = interfaces or await asyncio.to_thread(lan_addresses)
    seen = await look_around(hosts, timeout_s)
    secured = {each.id for each in seen if each.tag is not None}
    return Surroundings(len(secured), len({each.id for each in seen} - secured))


async def begin(keyring: Keyring, *, interfaces: Sequence[str], mdns: bool, peers: Sequence[Address]) -> Secret:
    """Make this device the first of a new swarm. Raises `NotInvited` when one is here, or one of `peers` was named."""
    around = await survey(interfaces) if mdns else Surroundings()
    if (reason := refusal(around, peers)) is not None:
        raise NotInvited(reason)
    return await asyncio.to_thread(keyring.make)


def refusal(around: Surroundings, peers: Sequence[Address]) -> str | None:
    """Why a device without a secret should not begin a swarm of its own, and what to do; None when it may."""
    if around.secured:
        where = "A swarm is here already"
    elif peers:
        where = f"The swarm of {peers[0]} lets nobody in without a secret"
    else:
        return None
    return (
        f"{where}, and this device is not in it. Run `swarm invite` on one of its devices and `swarm join --code CODE` "
        "here with the code that it shows, or `swarm join --new` here to begin another swarm."
    )


def no_client() -> NotInvited:
    """For a command that only asks, on a device without a secret."""
    return NotInvited(
        "This device is in no swarm yet. Run `swarm join` here first: it begins a swarm, or takes the code that "
        f"`swarm invite` shows on a device that is in one. Fleets set {VARIABLE} or --secret-file."
    )


async def identity(
    keyring: Keyring, secret: Secret, *, passing: bool, new: bool
) -> tuple[Credentials, Callable[[], None] | None]:
    """Credentials, and what gives their slot back (call it in a thread); a `passing` peer keeps nothing."""
    if not passing and (kept := await asyncio.to_thread(keyring.identity, secret, new=new)) is not None:
        return kept.credentials, kept.release
    return await asyncio.to_thread(ephemeral, secret), None


def _warning(file: Path) -> str | None:
    try:
        check_private(file)
    except BadInput as error:
        return str(error)
    return None
