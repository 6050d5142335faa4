"""How `swarm join` gets in: with the secret that it has, with a code, as the first of a new swarm, or not at all."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm import entrance
from swarm.accepting import accept
from swarm.background import in_daemon_thread
from swarm.cli.http import Http
from swarm.cli.show import note, say
from swarm.door import DEFAULT_PORT
from swarm.entrance import Held
from swarm.errors import BadInput, NotInvited, UsageError, WrongCode
from swarm.identity import Keyring
from swarm.interfaces import is_own, lan_addresses
from swarm.known import known_file, write_known
from swarm.pairing import Code
from swarm.secret import Secret
from swarm.types import Address

TRIES = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked on the command line."""

    code: str | None
    new: bool
    name: str | None
    secret_file: str | None
    open: bool
    interface: tuple[str, ...]
    peer: tuple[str, ...]
    no_mdns: bool
    forget: bool
    http: Http | None = None

    @property
    def places(self) -> list[Address]:
        return [Address.parse(text) for text in self.peer]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The secret to enter with, None for an open swarm; whether this device keeps it; and peers to try."""

    secret: Secret | None
    kept: bool
    peers: tuple[str, ...]


def from_file(file: str) -> Secret:
    """The secret in a file that was named; says when others can read it."""
    found = entrance.held(Keyring(), Path(file))
    assert found is not None
    if found.warning is not None:
        say(found.warning)
    return found.secret


def alone(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of a command that needs nobody else: without a secret it runs in a swarm of its own, kept nowhere."""
    if flags["open"] or flags["secret_file"] is not None or entrance.held(Keyring()) is not None:
        return flags
    return flags | {"secret": Secret.new(), "no_mdns": True}


async def admit(wish: Wish, keyring: Keyring) -> Admitted:
    """Raises `NotInvited`, `WrongCode`, `DoorClosed`, or `UsageError` for flags that contradict each other."""
    _check(wish)
    await asyncio.to_thread(_check_interfaces, wish.interface)
    if wish.open:
        return Admitted(None, kept=False, peers=wish.peer)
    if wish.code is not None:
        return await _by_code(Code.parse(wish.code), wish, keyring)
    held = await asyncio.to_thread(entrance.held, keyring, Path(wish.secret_file) if wish.secret_file else None)
    if held is not None:
        return _with(held, wish, keyring)
    around = entrance.Surroundings() if wish.no_mdns else await entrance.survey(wish.interface)
    reason = None if wish.new else entrance.refusal(around, wish.places)
    if reason is not None:
        return await _ask(reason, wish, keyring)
    secret = await asyncio.to_thread(keyring.make)
    open_too = f" {around.open} of an open swarm are here, and stay apart." if around.open else ""
    say(f"This device begins a new swarm. `swarm invite` here lets another one in.{open_too}")
    return Admitted(secret, kept=True, peers=wish.peer)


def _check(wish: Wish) -> None:
    flags = {"--open": wish.open, "--code": wish.code, "--new": wish.new, "--secret-file": wish.secret_file}
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} contradict each other; give one of them.")


def _check_interfaces(hosts: Sequence[str]) -> None:
    """Before a secret is made: on another network there may be a swarm to join."""
    if foreign := [host for host in hosts if not is_own(host)]:
        raise BadInput(
            f"This device has no address {', '.join(foreign)}; it has {', '.join(lan_addresses()) or 'none'}."
        )


def _with(held: Held, wish: Wish, keyring: Keyring) -> Admitted:
    if wish.new:
        where = keyring.secret_file if held.source == "kept" else entrance.VARIABLE
        raise UsageError(f"This device is in a swarm already, by the secret in {where}; remove that to begin another.")
    if held.warning is not None:
        say(held.warning)
    return Admitted(held.secret, held.source == "kept", wish.peer)


async def _by_code(code: Code, wish: Wish, keyring: Keyring) -> Admitted:
    """Ask with the code, and keep what comes."""
    if os.environ.get(entrance.VARIABLE):
        raise UsageError(
            f"{entrance.VARIABLE} is set, and would count for more than what a code brings; take it out of the "
            "environment first."
        )
    await asyncio.to_thread(keyring.check_room)
    name = wish.name or platform.node() or "a device"
    gift, place = await accept(code, name, wish.places, wish.interface, mdns=not wish.no_mdns)
    secret = Secret(gift.secret)
    aside = await asyncio.to_thread(keyring.set_aside, secret)
    await asyncio.to_thread(keyring.keep, secret)
    if aside is not None:
        say(f"This device was in another swarm; the secret of that one is in {aside} now.")
    if not wish.forget:
        hints = [Address(place.host, DEFAULT_PORT), *gift.places]
        try:
            await asyncio.to_thread(write_known, known_file(), hints)
        except OSError as error:
            say(f"Where peers are cannot be remembered in {known_file()}: {error.strerror or error}.")
    say(f"This device is in the swarm now; the secret is in {keyring.secret_file}.")
    return Admitted(secret, kept=True, peers=tuple(text for text in wish.peer if text != str(place)))


async def _ask(reason: str, wish: Wish, keyring: Keyring) -> Admitted:
    """Where somebody sits at a terminal, ask for the code; a few times, for it is easily mistyped."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotInvited(reason)
    note("A swarm is here, and this device is not in it yet. Run `swarm invite` on one of its devices.")
    for left in reversed(range(TRIES)):
        print("Code that it shows: ", end="", file=sys.stderr, flush=True)
        typed = await in_daemon_thread(sys.stdin.readline)
        if not typed.strip():
            break
        try:
            return await _by_code(Code.parse(typed), wish, keyring)
        except (BadInput, WrongCode, NotInvited) as error:
            if not left:
                raise
            say(str(error))
    raise NotInvited(reason)
