"""What peers tell one another about the swarm, and how it is written down. Every size is bounded here.

Ping ─▶ ◀─ Ack                  are you there?
Ask ─▶ (Ping) ◀─ Ack or Nack    ask it for me, for I hear nothing            SWIM, section 3.1; Lifeguard's nack
Tell                            what is new of somebody
Sync ─▶ ◀─ Digest ─▶ ◀─ Tell    do we know the same? What do you lack?       Scuttlebutt, as in chitchat
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from swarm.errors import MalformedFrame
from swarm.types import Address, Count, Door, Name, PeerId, PeerLoad, PeerProfile, PeerState

MAX_MESSAGE_BYTES: Final = 1024 * 1024
MAX_NEWS: Final = 256
MAX_DIGEST: Final = 4096
BUCKETS: Final = 16
"""Peers are spread over so many buckets by their id; only those that differ are compared one by one."""

_Id = Annotated[PeerId, Meta(pattern=r"^[0-9a-f]{32}\Z")]
_IdOrNone = Annotated[PeerId, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Hash = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Changes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The fields of a record that changed."""

    name: Name | UnsetType = UNSET
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)] | UnsetType = UNSET
    client: bool | UnsetType = UNSET
    profile: PeerProfile | UnsetType = UNSET
    load: PeerLoad | UnsetType = UNSET
    holds: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=256)] | UnsetType = UNSET


KEYS: Final = Changes.__struct_fields__


class News(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is claimed of one peer, and what changed in its record after version `since`, up to `version`."""

    id: _Id
    incarnation: Count
    claim: PeerState
    accuser: _IdOrNone = PeerId("")
    """Who found it silent, for a suspicion that counts as such."""
    since: Count = 0
    version: Count = 0
    changes: Changes | None = None


class Known(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much of one peer is known."""

    id: _Id
    incarnation: Count
    version: Count
    claim: PeerState


_SomeNews = Annotated[tuple[News, ...], Meta(max_length=MAX_NEWS)]
_Hashes = Annotated[tuple[_Hash, ...], Meta(min_length=BUCKETS, max_length=BUCKETS)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Ping(_Message, frozen=True, tag=0):
    """Asks for an `Ack` with the same number; tells the other what is said of it, so that it can refute."""

    number: _Number
    news: _SomeNews = ()


class Ack(_Message, frozen=True, tag=1):
    number: _Number
    news: _SomeNews = ()


class Ask(_Message, frozen=True, tag=2):
    """Asks for the target's `Ack` to be passed on, or for a `Nack`."""

    number: _Number
    target: _Id


class Nack(_Message, frozen=True, tag=3):
    """The target did not answer me either; so much for its door."""

    number: _Number
    door: Door


class Tell(_Message, frozen=True, tag=4):
    news: _SomeNews


class Sync(_Message, frozen=True, tag=5):
    """A hash of what is known of each bucket of peers; who knows something else answers with a `Digest`."""

    hashes: _Hashes


class Digest(_Message, frozen=True, tag=6):
    """All that is known of the peers in `buckets` (bits), or, without any, only what is asked about."""

    buckets: Annotated[int, Meta(ge=0, lt=2**BUCKETS)]
    known: Annotated[tuple[Known, ...], Meta(max_length=MAX_DIGEST)]


Message = Ping | Ack | Ask | Nack | Tell | Sync | Digest

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Message)


def decode(body: bytes | bytearray | memoryview) -> Message:
    """Raises `MalformedFrame` for whatever is no message."""
    try:
        message: Message = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrame(f"Gossip makes no sense: {error}.") from error
    return message
