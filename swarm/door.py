"""Where a peer listens: on its own addresses, at the usual port or, where that is taken, at any free one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from swarm.errors import AddressInUse
from swarm.interfaces import lan_addresses
from swarm.transport import Channel, Hello, Listener, Router, Transport
from swarm.types import Address

DEFAULT_PORT: Final = 4747
ALL_INTERFACES: Final = "0.0.0.0"  # noqa: S104 - a peer is there for its whole LAN, unless told otherwise


async def open_door(
    transport: Transport,
    interfaces: Sequence[str],
    port: int | None,
    hello: Hello,
    router: Router,
    on_channel: Callable[[Channel], None],
) -> tuple[Listener, tuple[Address, ...]]:
    """The open door, and the addresses at which others reach it. Raises `AddressInUse` for a `port` that is taken."""

    async def listen(number: int) -> Listener:
        places = [Address(host, number) for host in interfaces or (ALL_INTERFACES,)]
        return await transport.listen(places, hello, router, on_channel)

    try:
        listener = await listen(DEFAULT_PORT if port is None else port)
    except AddressInUse:
        if port is not None:
            raise
        listener = await listen(0)
    return listener, tuple(Address(host, listener.addresses[0].port) for host in interfaces or lan_addresses())
