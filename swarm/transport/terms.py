"""What all channels of one transport have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.errors import TwinIdentity
from swarm.transport.allowance import Allowance
from swarm.transport.base import Hello, Limits, OnTwin
from swarm.transport.greeting import check_not_me
from swarm.types import Address

logger = logging.getLogger(__name__)

Vouch = Callable[[Hello, asyncio.BaseTransport], None]
"""Checks that a peer is who it says, by what its connection proves. Raises a `SwarmError`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How much a peer may do, how it proves who it is, and who wants to know of a twin."""

    limits: Limits
    vouch: Vouch | None = None
    on_twin: OnTwin | None = None
    allowance: Allowance = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowance", Allowance(self.limits.inbound_bytes))

    def check(self, remote: Hello, mine: Hello, mover: asyncio.BaseTransport | None) -> None:
        """Let `remote` in, or raise the `SwarmError` that keeps it out."""
        if self.vouch is not None and mover is not None:
            self.vouch(remote, mover)
        address = _address(mover)
        try:
            check_not_me(remote, mine, address)
        except TwinIdentity:
            self._tell(remote, address)
            raise

    def _tell(self, twin: Hello, address: Address | None) -> None:
        if self.on_twin is None:
            return
        try:
            self.on_twin(twin, address)
        except Exception:
            logger.exception("A callback that is told of twins failed")


def _address(mover: asyncio.BaseTransport | None) -> Address | None:
    """The other end; None where there are no addresses."""
    name = mover.get_extra_info("peername") if mover is not None else None
    return Address(name[0], name[1]) if name else None
