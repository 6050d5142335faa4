"""`swarm secret`: where it is, and how it is changed to put a lost device out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from swarm import entrance
from swarm.background import in_daemon_thread
from swarm.cli import loop
from swarm.cli.show import address, note, print_json, tell
from swarm.entrance import Held
from swarm.errors import NotInvited, UsageError
from swarm.identity import Keyring
from swarm.peer import Peer
from swarm.secret import Secret
from swarm.trust import Authority
from swarm.types import PeerId, PeerRecord


def show_secret(*, reveal: bool, as_json: bool) -> None:
    """Print where the secret is and which swarm it makes; with `reveal` the secret itself."""
    keyring = Keyring()
    held = _held(keyring)
    where = str(keyring.secret_file) if held.source == "kept" else entrance.VARIABLE
    tag = Authority(held.secret).tag
    if as_json:
        print_json({"where": where, "swarm": tag} | ({"secret": held.secret.reveal()} if reveal else {}))
    elif reveal:
        tell(held.secret.reveal())
    else:
        tell(f"The secret of swarm {tag} is in {where}. --reveal prints it: whoever has it is in the swarm.")


def rotate(client: Callable[[Secret], Peer], without: list[str], wait_s: float, *, yes: bool, as_json: bool) -> None:
    """Make a new secret and hand it to the living peers, except those named."""
    keyring = Keyring()
    held = _held(keyring)
    if held.source != "kept":
        raise UsageError(
            f"This device's secret comes from {entrance.VARIABLE}: change it there, and on every other device."
        )
    loop.run(_rotate(client(held.secret), keyring, without, wait_s, yes, as_json))


def _held(keyring: Keyring) -> Held:
    held = entrance.held(keyring)
    if held is None:
        raise NotInvited("This device has no swarm secret. `swarm join` makes one, or takes it from another device.")
    return held


async def _rotate(peer: Peer, keyring: Keyring, without: list[str], wait_s: float, yes: bool, as_json: bool) -> None:
    async with peer:
        await asyncio.sleep(wait_s)
        here = [record for record in peer.view().hosts() if record.id != peer.id]
        stay = [record for record in here if not any(record.is_called(name) for name in without)]
        _check_names(without, here, yes)
        if not yes:
            await _confirm(stay)
        fresh = Secret.new()
        await asyncio.to_thread(keyring.keep, fresh)  # before others have it: this device must not be left behind
        kept = await peer.hand_over(fresh, [record.id for record in stay])
    if as_json:
        print_json(
            {"swarm": Authority(fresh).tag, "peers": [_row(record, kept.get(record.id, "left out")) for record in here]}
        )
    else:
        _report(here, kept)


def _check_names(without: list[str], here: list[PeerRecord], yes: bool) -> None:
    """A lost device may be off, or call itself something else; the others must still be told from it."""
    unseen = [name for name in without if not any(record.is_called(name) for record in here)]
    if unseen and yes:
        raise UsageError(
            f"Nothing was changed: nobody here is called {', '.join(unseen)}. A device that is off gets no new secret "
            "anyway: leave its name out. One that calls itself something else shows in the list without --yes."
        )
    if unseen:
        note(
            f"Nobody here is called {', '.join(unseen)} now. Whoever has that device can call it something else: look "
            "for it in the list."
        )


async def _confirm(stay: list[PeerRecord]) -> None:
    """Whoever holds the old secret can call itself anything, so a person looks at who gets the new one."""
    note("The new secret goes to:" if stay else "No other peer is here: every other device has to be invited again.")
    for record in stay:
        note(f"  {record.name}  {address(record)}  ({record.id[:8]})")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("Nothing was changed: nobody is here to say yes. Look at the list, then add --yes.")
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if (await in_daemon_thread(sys.stdin.readline)).strip().lower() not in ("y", "yes"):
        raise UsageError("Nothing was changed.")


def _row(record: PeerRecord, why: str | None) -> dict[str, object]:
    return {"name": record.name, "id": record.id, "kept": why is None, "why": why}


def _report(here: list[PeerRecord], kept: dict[PeerId, str | None]) -> None:
    tell("The swarm has a new secret.")
    for record in here:
        why = kept.get(record.id, "left out")
        tell(f"  {record.name}: {'has it' if why is None else why}")
    tell("Devices that have not got it are out. `swarm invite` lets one in again; fleets get it by hand.")
