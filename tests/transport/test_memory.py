"""The contract, in memory."""

from __future__ import annotations

from swarm.transport import Limits, MemoryNetwork, MemoryTransport
from swarm.transport.base import OnTwin
from tests.transport.contract import TransportContract


class TestMemory(TransportContract):
    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> MemoryTransport:
        return MemoryTransport(MemoryNetwork(), limits=limits, on_twin=on_twin)
