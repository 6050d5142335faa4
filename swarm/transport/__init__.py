"""Channels between peers: the same ones over TCP, over TLS and in memory, and with faults put in for tests.

    Links             one channel for control and one for tensors with each peer, whoever dialled
      Transport       dial and listen: TcpTransport, MemoryTransport, FaultyTransport around either
        Channel       both sides ask, tell, cancel and keep alive; Service answers, usually a Router
          wire        frames in bytes: sizes are agreed to before memory is given

Each floor knows only those below it.
"""

from swarm.transport.base import PROTOCOL, Call, Hello, Limits, Listener, Purpose, Reply, Served, Service, Transport
from swarm.transport.channel import Channel
from swarm.transport.faults import Faults, FaultyTransport
from swarm.transport.links import Links
from swarm.transport.memory import MemoryNetwork, MemoryTransport
from swarm.transport.router import Router
from swarm.transport.tcp import TcpTransport

__all__ = [
    "PROTOCOL",
    "Call",
    "Channel",
    "Faults",
    "FaultyTransport",
    "Hello",
    "Limits",
    "Links",
    "Listener",
    "MemoryNetwork",
    "MemoryTransport",
    "Purpose",
    "Reply",
    "Router",
    "Served",
    "Service",
    "TcpTransport",
    "Transport",
]
