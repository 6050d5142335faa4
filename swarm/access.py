"""What a peer may enter with: its identity in a swarm that keeps strangers out, or none in an open one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from swarm import entrance
from swarm.errors import UsageError
from swarm.identity import Keyring
from swarm.secret import Secret
from swarm.transport import Hello, TcpTransport
from swarm.trust import identify
from swarm.types import Address, PeerId


@dataclass(frozen=True, slots=True)
class Pass:
    """Who a peer is, and how it talks to others. `tag` names its swarm to those who look; None for an open one."""

    id: PeerId
    tag: str | None
    transport: TcpTransport


@dataclass(frozen=True, slots=True)
class Access:
    """How one peer enters; the words are those of `Peer`."""

    secret: Secret | None
    is_open: bool
    keyring: Keyring
    new_identity: bool
    client: bool
    remember: bool
    mdns: bool
    interfaces: Sequence[str]
    peers: Sequence[Address]

    def __post_init__(self) -> None:
        if self.is_open and self.secret is not None:
            raise UsageError("An open swarm has no secret: give either `open` or `secret`.")

    async def enter(self, stack: AsyncExitStack, on_twin: Callable[[tuple[Address, ...]], None]) -> Pass:
        """Raises `NotInvited`, and `BadInput` for a secret or key that cannot be used. Leaving the stack frees the
        peer's identity for the next one."""
        if self.is_open:
            return Pass(PeerId(secrets.token_hex(16)), None, TcpTransport())
        secret = self.secret or await self._own_secret()
        mine, release = await entrance.identity(
            self.keyring, secret, passing=self.client or not self.remember, new=self.new_identity
        )
        if release is not None:
            stack.push_async_callback(asyncio.to_thread, release)

        def met(_: Hello, where: Address | None) -> None:
            on_twin(() if where is None else (where,))

        return Pass(mine.id, mine.tag, TcpTransport(mine.server, mine.client, identify=identify, on_twin=met))

    async def _own_secret(self) -> Secret:
        kept = await asyncio.to_thread(entrance.held, self.keyring)
        if kept is not None:
            return kept.secret
        if self.client:
            raise entrance.no_client()
        return await entrance.begin(self.keyring, interfaces=self.interfaces, mdns=self.mdns, peers=self.peers)
