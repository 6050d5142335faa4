"""`swarm invite`: show a code, and let in the one device that knows it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import monotonic

from swarm import entrance
from swarm.cli import loop
from swarm.cli.show import note, print_json, tell
from swarm.errors import NotInvited
from swarm.identity import Keyring
from swarm.invitation import Guest, Invitation
from swarm.known import known_file, read_known
from swarm.pairing import ATTEMPTS, OPEN_S
from swarm.types import Address


def run(
    *,
    port: int | None,
    interface: tuple[str, ...],
    no_mdns: bool,
    forget: bool,
    secret_file: str | None,
    as_json: bool,
) -> None:
    held = entrance.held(Keyring(), Path(secret_file) if secret_file else None)
    if held is None:
        raise NotInvited(
            "This device is in no swarm, so it can let nobody in. Run `swarm join` here first: it begins a swarm."
        )

    async def invite() -> None:
        invitation = Invitation(
            held.secret,
            places=[] if forget else read_known(known_file()),
            interfaces=interface,
            port=port,
            mdns=not no_mdns,
            on_attempt=lambda left, host: _attempt(left, host, as_json),
            on_problem=note,
        )
        async with invitation:
            _show(invitation, as_json)
            _welcome(await _wait(invitation, as_json), as_json)

    loop.run(invite())


def _show(invitation: Invitation, as_json: bool) -> None:
    code, places = str(invitation.code), [str(address) for address in invitation.addresses]
    if as_json:
        print_json({"event": "invitation", "code": code, "addresses": places, "seconds": OPEN_S, "attempts": ATTEMPTS})
        return
    tell("Type this on the device that is to come in:")
    tell("")
    tell(f"    swarm join --code {code}")
    tell("")
    tell(f"If it does not find this device, add --peer {_first(invitation.addresses)}")
    tell(f"It holds for one device, {OPEN_S / 60:g} minutes and {ATTEMPTS} attempts.")


def _first(addresses: tuple[Address, ...]) -> str:
    return str(addresses[0])


async def _wait(invitation: Invitation, as_json: bool) -> Guest:
    """The guest; meanwhile a terminal shows what time is left."""
    if as_json or not sys.stderr.isatty():
        return await invitation.guest()
    counting = asyncio.create_task(_count_down(invitation))
    try:
        return await invitation.guest()
    finally:
        counting.cancel()
        _wipe()


def _wipe() -> None:
    """Take the line with the time that is left off a terminal."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


async def _count_down(invitation: Invitation) -> None:
    ends = monotonic() + OPEN_S
    while (left_s := ends - monotonic()) > 0:
        minutes, seconds = divmod(int(left_s), 60)
        text = f"\r\x1b[K{minutes}:{seconds:02} left, {_attempts(invitation.left)}"
        print(text, end="", file=sys.stderr, flush=True)
        await asyncio.sleep(1)


def _attempts(left: int) -> str:
    return f"{left} attempt{'' if left == 1 else 's'}"


def _attempt(left: int, host: str, as_json: bool) -> None:
    if as_json:
        print_json({"event": "attempt", "left": left, "host": host})
    else:
        _wipe()
        note(f"{host} tried a wrong code; {_attempts(left)} left.")


def _welcome(guest: Guest, as_json: bool) -> None:
    if as_json:
        print_json({"event": "joined", "name": guest.name, "host": guest.host})
    else:
        tell(f"{guest.name} ({guest.host}) is in.")
