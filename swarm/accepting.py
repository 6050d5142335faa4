"""Asking to be let in: the joiner's end of a pairing, on real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from swarm.errors import NotInvited, PeerLost, PeerUnreachable, SwarmError
from swarm.interfaces import lan_addresses
from swarm.invitation import DEFAULT_PORT, LIFE_S, MESSAGE_S, SERVICE, read
from swarm.mdns import Record, is_loopback, look
from swarm.pairing import MAX_MESSAGE_BYTES, Code, Gift, Joining
from swarm.types import Address

LOOK_S: Final = 5.0


async def accept(
    code: Code, name: str, peers: Sequence[Address] = (), interfaces: Sequence[str] = (), *, mdns: bool = True
) -> tuple[Gift, Address]:
    """Ask with a code to be let in: what the invitation gave, and where it was.

    It is looked for at `peers`, whether they name its own port or a peer on the same device, and then among those that
    are announced.

    :raises NotInvited: no such invitation is to be seen.
    :raises PeerUnreachable: none answers there.
    :raises PeerLost: it broke off after it was asked with the code.
    :raises WrongCode: it was not the code that is shown there.
    :raises DoorClosed: the invitation is over.
    """
    failure: SwarmError = NotInvited("Without multicast an invitation has to be named: add --peer HOST:PORT.")
    for named in dict.fromkeys(place for peer in peers for place in (peer, Address(peer.host, DEFAULT_PORT))):
        try:
            return await _ask(named, code, name), named
        except PeerUnreachable as error:
            failure = error
    if not mdns:
        raise failure
    for found in await _find(code, interfaces):
        try:
            return await _ask(found, code, name), found
        except PeerUnreachable as error:
            failure = error
    raise failure


async def _find(code: Code, interfaces: Sequence[str]) -> list[Address]:
    hosts = interfaces or await asyncio.to_thread(lan_addresses)
    loopback = is_loopback(hosts)

    def is_ours(record: Record) -> bool:
        return record.text("txtvers") == "1" and record.text("d") == code.door

    records = await look(SERVICE, hosts, LOOK_S, enough=is_ours)
    doors = {addresses for each in records if is_ours(each) and (addresses := each.addresses(loopback=loopback))}
    if not doors:
        others = f" {len(records)} with other codes are; was the code typed right?" if records else ""
        raise NotInvited(
            f"No invitation with a code that begins with {code.door} is to be seen here.{others} Run `swarm invite` on "
            "a device that is in the swarm, or name it with --peer HOST:PORT as it says there."
        )
    if len(doors) > 1:
        choice = ", ".join(sorted(str(addresses[0]) for addresses in doors))
        raise NotInvited(f"Several invitations begin with {code.door}: at {choice}. Name the right one with --peer.")
    return list(doors.pop())


async def _ask(place: Address, code: Code, name: str) -> Gift:
    try:
        async with asyncio.timeout(LIFE_S):
            return await _converse(place, code, name)
    except TimeoutError as error:
        raise PeerUnreachable(f"{place} did not answer in time; is `swarm invite` still running there?") from error
    except OSError as error:
        raise PeerUnreachable(
            f"No invitation answers at {place} ({error.strerror or error}); is `swarm invite` running there, and is "
            "the port the one that it shows?"
        ) from error


async def _converse(place: Address, code: Code, name: str) -> Gift:
    async with asyncio.timeout(MESSAGE_S):
        reader, writer = await asyncio.open_connection(
            place.host, place.port, ssl=_any_certificate(), server_hostname="", limit=MAX_MESSAGE_BYTES
        )
    joining: Joining | None = None
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        joining = await asyncio.to_thread(Joining, code, sha256(certificate).digest(), name)
        say = joining.begin()
        while joining.gift is None:
            writer.write(say)
            async with asyncio.timeout(MESSAGE_S):
                await writer.drain()
                say = b""
                while not say and joining.gift is None:
                    say = await asyncio.to_thread(joining.received, await read(reader))
        return joining.gift
    except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors
        if joining is None or not joining.has_confirmed:
            raise
        raise PeerLost(  # and ask nowhere else: each place that is asked could have guessed once
            f"{place} broke off after it was asked with the code, which may be used up now. Run `swarm invite` again "
            "there, and name that device with --peer HOST:PORT as it says."
        ) from error
    finally:
        writer.transport.abort()


def _any_certificate() -> ssl.SSLContext:
    """Takes any certificate: the exchange proves whose it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
