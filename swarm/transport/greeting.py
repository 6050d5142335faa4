"""Who is it? The first frame of a connection, judged before anything else is heard. Pure.

Whoever dials says hello first; whoever listens answers with its own hello, which means welcome, or with a failure.
"""

from __future__ import annotations

from typing import Final

from swarm.errors import MalformedFrame, PeerUnreachable, TwinIdentity, VersionMismatch
from swarm.schema import pack, unpack
from swarm.transport.asking import reported
from swarm.transport.base import Hello
from swarm.types import Address
from swarm.wire import Frame, Kind

MAX_HELLO_BYTES: Final = 4096


def greeting(mine: Hello) -> Frame:
    """The frame that says hello."""
    return Frame(Kind.HELLO, 0, "", pack(mine))


def read_greeting(frame: Frame, mine: Hello) -> Hello:
    """The other side's hello. Raises what it reported instead, or why it is no peer to talk to."""
    if frame.kind is Kind.FAILURE:
        raise reported(frame)
    if frame.kind is not Kind.HELLO or frame.refused is not None:
        raise MalformedFrame("The other side did not begin with a hello; check the port.")
    version = frame.fields.get("protocol")
    if type(version) is int and version != mine.protocol:
        raise VersionMismatch(
            f"One side speaks version {mine.protocol} of the swarm's protocol, the other version {version}; "
            "install the same version of swarm on both."
        )
    return unpack(Hello, frame.fields)


def check_not_me(remote: Hello, mine: Hello, address: Address | None) -> None:
    """Raises `PeerUnreachable` when this process hears itself, and `TwinIdentity` when another has its key."""
    if remote.id != mine.id:
        return
    if not mine.start or not remote.start or mine.start == remote.start:
        raise PeerUnreachable(f"This address leads back to '{mine.name}' itself, not to another peer.")
    where = f" at {address}" if address else ""
    raise TwinIdentity(
        f"Two devices run with the same key, '{mine.name}' here and '{remote.name}'{where}: the configuration of one "
        "was copied to the other. Run `swarm join --new-identity` on one of the two."
    )
