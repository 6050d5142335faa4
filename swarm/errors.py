"""Every way in which the swarm says no, as one tree.

    SwarmError
    ├── UsageError            the caller asked for something that cannot be       exit 2
    │   ├── UnknownModel          no such name on that peer
    │   ├── CannotSplit           the model or the split does not come apart so
    │   └── BadInput              an unreadable picture, a wrong shape
    ├── PeerError             a peer is missing, gone or unwilling                exit 3
    │   ├── NoPeers               nobody else is here
    │   ├── PeerUnreachable       no connection could be made
    │   ├── PeerLost              the connection broke
    │   ├── TwinIdentity          two devices run with the same key
    │   ├── Declined              a peer will not hold what it was offered
    │   ├── PlanGone              a peer does not know the plan: it was restarted, or let it go
    │   ├── NoFit                 all peers together have too little memory, or are too few for the goal
    │   └── Overloaded            a queue is full; try again later
    │       └── TooLate               it could not be answered before its deadline, so it was not begun
    ├── DeadlineExceeded      the time given was used up                          exit 4
    ├── ProtocolError         bytes that make no sense                            exit 5
    │   ├── MalformedFrame        not a frame, or one with wrong fields
    │   ├── FrameTooLarge         longer than anybody agreed to
    │   └── VersionMismatch       the other side speaks another protocol
    ├── WeightsError          parameters are missing or not what was promised     exit 6
    ├── AddressInUse          the port belongs to another program                 exit 7
    └── TrustError            somebody was not let in                             exit 8
        ├── NotInvited            this device does not hold the swarm's secret
        ├── WrongCode             another code than the one that is shown
        └── DoorClosed            the invitation is over

A sentence of an error says what happened, to which peer, and what to do. Errors cross the wire as `code` and sentence,
and come out as the same class on the other side.
"""

from __future__ import annotations

import re
from typing import ClassVar

UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Inside `[]` of a pattern: what drives a terminal or turns the direction of text, and halves of characters."""

MAX_SENTENCE = 2048


class SwarmError(Exception):
    """Root of the tree; `str(error)` is a sentence for a person."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    reporter: str = ""
    """Id of the peer that reported it to the requester; empty where it was met here."""
    culprit: str = ""
    """Id of the peer whose fault it is, where whoever met it can tell."""


class UsageError(SwarmError):
    code = "usage"
    exit_code = 2


class UnknownModel(UsageError):
    code = "unknown-model"


class CannotSplit(UsageError):
    code = "cannot-split"


class BadInput(UsageError):
    code = "bad-input"


class PeerError(SwarmError):
    code = "peer"
    exit_code = 3


class NoPeers(PeerError):
    code = "no-peers"


class PeerUnreachable(PeerError):
    code = "peer-unreachable"


class PeerLost(PeerError):
    code = "peer-lost"


class TwinIdentity(PeerError):
    code = "twin-identity"


class Declined(PeerError):
    code = "declined"
    free_bytes: int | None = None
    """The room that the peer has, where that is the reason; it travels beside the error."""


class PlanGone(PeerError):
    code = "plan-gone"


class NoFit(PeerError):
    code = "no-fit"


class Overloaded(PeerError):
    code = "overloaded"
    retry_after_s: float = 0.0
    """When there may be room again; it travels beside the error."""


class TooLate(Overloaded):
    code = "too-late"


class DeadlineExceeded(SwarmError):
    code = "deadline-exceeded"
    exit_code = 4


class ProtocolError(SwarmError):
    code = "protocol"
    exit_code = 5


class MalformedFrame(ProtocolError):
    code = "malformed-frame"


class FrameTooLarge(ProtocolError):
    code = "frame-too-large"


class VersionMismatch(ProtocolError):
    code = "version-mismatch"


class WeightsError(SwarmError):
    code = "weights"
    exit_code = 6


class AddressInUse(SwarmError):
    code = "address-in-use"
    exit_code = 7


class TrustError(SwarmError):
    code = "trust"
    exit_code = 8


class NotInvited(TrustError):
    code = "not-invited"


class WrongCode(TrustError):
    code = "wrong-code"


class DoorClosed(TrustError):
    code = "door-closed"


def _tree(root: type[SwarmError]) -> dict[str, type[SwarmError]]:
    return {root.code: root} | {code: kind for sub in root.__subclasses__() for code, kind in _tree(sub).items()}


_BY_CODE = _tree(SwarmError)


def from_code(code: str, sentence: str) -> SwarmError:
    """The error that a remote peer reported; an unknown code becomes a plain `SwarmError`."""
    return _BY_CODE.get(code, SwarmError)(plain(sentence[:MAX_SENTENCE]))


def plain(text: str) -> str:
    """Text from elsewhere, fit for a terminal: a replacement character for each one that does not just show."""
    return re.sub(f"[{UNPRINTABLE}]", "\N{REPLACEMENT CHARACTER}", text)
