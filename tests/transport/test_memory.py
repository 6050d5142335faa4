"""The contract, in memory."""

from __future__ import annotations

from swarm.transport import Limits, MemoryNetwork, MemoryTransport
from tests.transport.contract import TransportContract


class TestMemory(TransportContract):
    def transport(self, limits: Limits) -> MemoryTransport:
        return MemoryTransport(MemoryNetwork(), limits=limits)
