"""Devices on a LAN that run one neural network together.

    async with Peer() as peer:
        vit = await peer.load("fashion-vit")
        result = await vit(["shirt.png"])

Names are loaded when they are first used: `import swarm` costs no torch, no textual and no network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.batching import Batching
    from swarm.errors import DeadlineExceeded, PeerError, ProtocolError, SwarmError, UsageError, WeightsError
    from swarm.peer import Peer
    from swarm.plan import Plan
    from swarm.result import Result
    from swarm.session import Session
    from swarm.types import PeerId, View

__version__ = "0.1.0"

__all__ = [
    "Batching",
    "DeadlineExceeded",
    "Peer",
    "PeerError",
    "PeerId",
    "Plan",
    "ProtocolError",
    "Result",
    "Session",
    "SwarmError",
    "UsageError",
    "View",
    "WeightsError",
    "__version__",
]

_HOMES = {
    "swarm.batching": ("Batching",),
    "swarm.errors": ("DeadlineExceeded", "PeerError", "ProtocolError", "SwarmError", "UsageError", "WeightsError"),
    "swarm.peer": ("Peer",),
    "swarm.plan": ("Plan",),
    "swarm.result": ("Result",),
    "swarm.session": ("Session",),
    "swarm.types": ("PeerId", "View"),
}

if not TYPE_CHECKING:  # a type checker that saw this would believe in any name at all

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return globals().setdefault(name, getattr(import_module(home), name))
        raise AttributeError(f"module 'swarm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
