"""How one typed code lets one device in. Pure: bytes in, bytes out, `now` passed in; no sockets, no clock.

    joiner                                              inviter (shows the code; has a Admission with three attempts)
      │ Ask: SPAKE2 share ───────────────────────────▶│ one attempt is used up here, before anything is answered
      │◀────────────────────────────── Answer: its share│
      │ Confirm: MAC, and who is asking, sealed ────────▶│ wrong: Refused
      │◀──────────────── Welcome: MAC, the secret, sealed│ right: the door closes behind it

The bytes travel over TLS to a certificate that the joiner cannot check. Both put the fingerprint of the certificate
that they see into SPAKE2's identities: with somebody between them the keys differ, and no code is right. SPAKE2 lets
whoever answers or asks try one code an exchange, and learn nothing else; and the inviter shows nothing that depends on
the code's key before the joiner has. So a guesser on the network has three tries at one of 2**30.

The first two letters of a code are no part of what is hard to guess: they are announced with the invitation, so that
the device which joins asks at the right door and does not use up attempts at others.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from swarm.errors import (
    BadInput,
    DoorClosed,
    FrameTooLarge,
    MalformedFrame,
    SwarmError,
    VersionMismatch,
    WrongCode,
    plain,
)
from swarm.secret import SECRET_BYTES, Secret
from swarm.types import Address

VERSION: Final = 1
ATTEMPTS: Final = 3
OPEN_S: Final = 120.0
MAX_MESSAGE_BYTES: Final = 4096
MAX_PLACES: Final = 16

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's: without I, L, O and U, which are read as what they look like."""
LETTERS: Final = 8
DOOR_LETTERS: Final = 2

_LOOK_ALIKE: Final = str.maketrans("ILOU", "110V", "-_")
_NONCE: Final = bytes(12)  # each key seals one message

_Share = Annotated[bytes, Meta(min_length=33, max_length=33)]
_Mac = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Sealed = Annotated[bytes, Meta(max_length=3072)]
_Left = Annotated[int, Meta(ge=0, le=ATTEMPTS)]
Why = Literal["late", "guessed", "taken", "version"]


class Ask(msgspec.Struct, tag="ask"):
    version: Annotated[int, Meta(ge=0, le=2**31)]
    share: _Share


class Answer(msgspec.Struct, tag="answer"):
    share: _Share


class Confirm(msgspec.Struct, tag="confirm"):
    mac: _Mac
    name: _Sealed


class Welcome(msgspec.Struct, tag="welcome"):
    mac: _Mac
    gift: _Sealed


class Refused(msgspec.Struct, tag="refused"):
    left: _Left


class Closed(msgspec.Struct, tag="closed"):
    why: Why


class Gift(msgspec.Struct):
    """What the joiner gets: the swarm's secret, and where peers were last seen."""

    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    places: Annotated[tuple[Address, ...], Meta(max_length=MAX_PLACES)] = ()

    def __repr__(self) -> str:
        return "Gift(…)"


_Message = Ask | Answer | Confirm | Welcome | Refused | Closed
_decoder: Final[msgspec.msgpack.Decoder[_Message]] = msgspec.msgpack.Decoder(_Message)
_gifts: Final[msgspec.msgpack.Decoder[Gift]] = msgspec.msgpack.Decoder(Gift)


@dataclass(frozen=True, slots=True, repr=False)
class Code:
    """A one-time code. `str` shows it in two groups, as people type it."""

    letters: str

    @classmethod
    def new(cls) -> Code:
        return cls("".join(secrets.choice(ALPHABET) for _ in range(LETTERS)))

    @classmethod
    def parse(cls, text: str) -> Code:
        """Read what a person typed: case, spaces and dashes do not matter. Raises `BadInput`."""
        letters = "".join(text.upper().split()).translate(_LOOK_ALIKE)
        if len(letters) != LETTERS or not set(letters) <= set(ALPHABET):
            raise BadInput(
                f"A code has {LETTERS} letters and digits, as in K7QM-4XBT; `swarm invite` shows one on a device that "
                "is in the swarm."
            )
        return cls(letters)

    @property
    def door(self) -> str:
        """The public part, by which its invitation is found."""
        return self.letters[:DOOR_LETTERS]

    def __str__(self) -> str:
        half = LETTERS // 2
        return f"{self.letters[:half]}-{self.letters[half:]}"

    def __repr__(self) -> str:
        return f"Code({self.door}…)"


class Admission:
    """One invitation: so many attempts, so much time, one guest. Shared by all exchanges at the inviter."""

    def __init__(self, code: Code, gift: Gift, fingerprint: bytes, now: float) -> None:
        self.code = code
        self.gift = gift
        self.fingerprint = fingerprint
        self.closes_at = now + OPEN_S
        self.left = ATTEMPTS
        self.guest: str | None = None
        """The name of the device that was let in."""

    def shut(self, now: float) -> Why | None:
        """Why nobody comes in any more, whatever the code; None while it is open."""
        if self.guest is not None:
            return "taken"
        return "late" if now >= self.closes_at else None

    def begin(self, now: float) -> Why | None:
        """Use up one attempt, or tell why there is none."""
        why = self.shut(now) or ("guessed" if self.left == 0 else None)
        if why is None:
            self.left -= 1
        return why


class Exchange:
    """One exchange at the inviter: give `received` what arrives, in whatever pieces, and send what it returns.

    Arithmetic of some milliseconds: call it in a thread, and one exchange of a door at a time. Raises `MalformedFrame`
    and `FrameTooLarge`; the exchange is over then, and when `is_over`.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._reader = _Reader()
        self._keys: _Keys | None = None
        self.is_over = False
        self.has_tried = False
        """One of the door's attempts was used up for it."""
        self.was_let_in = False

    def received(self, data: bytes, now: float) -> bytes:
        """Raises as said above; returns b"" until a whole message is there."""
        try:
            message = self._reader.feed(data)
            return b"" if message is None else _pack(self._reply(message, now))
        except SwarmError:
            self.is_over = True
            raise

    def _reply(self, message: _Message, now: float) -> _Message:
        if isinstance(message, Ask) and self._keys is None:
            return self._answer(message, now)
        if isinstance(message, Confirm) and self._keys is not None:
            self.is_over = True
            return self._judge(message, self._keys, now)
        raise MalformedFrame("A device that asked to be let in broke the order of the exchange.")

    def _answer(self, ask: Ask, now: float) -> _Message:
        why: Why | None = "version" if ask.version != VERSION else self._admission.begin(now)
        if why is not None:
            self.is_over = True
            return Closed(why)
        self.has_tried = True
        share, self._keys = _agree(self._admission.code, self._admission.fingerprint, ask.share)
        return Answer(share)

    def _judge(self, confirm: Confirm, keys: _Keys, now: float) -> _Message:
        if (why := self._admission.shut(now)) is not None:
            return Closed(why)
        if not hmac.compare_digest(confirm.mac, keys.joiner_mac):
            return Refused(self._admission.left)
        self._admission.guest = plain(keys.open(keys.joiner_seal, confirm.name).decode("utf-8", "replace"))[:128]
        self.was_let_in = True
        return Welcome(keys.inviter_mac, keys.seal(keys.inviter_seal, msgspec.msgpack.encode(self._admission.gift)))


class Joining:
    """The joiner's side: send what `begin` returns, then give `received` what arrives and send what it returns, until
    `gift` is there. For a thread, too. Raises `WrongCode`, `DoorClosed`, `VersionMismatch`, `MalformedFrame`."""

    def __init__(self, code: Code, fingerprint: bytes, name: str) -> None:
        self._name = name
        self._reader = _Reader()
        self._half = _Half(code, fingerprint, joins=True)
        self._keys: _Keys | None = None
        self.gift: Gift | None = None

    @property
    def has_confirmed(self) -> bool:
        """The other side has what it takes to check one guess of the code."""
        return self._keys is not None

    @property
    def secret(self) -> Secret | None:
        return None if self.gift is None else Secret(self.gift.secret)

    def begin(self) -> bytes:
        return _pack(Ask(VERSION, self._half.share))

    def received(self, data: bytes) -> bytes:
        """Raises as said above; returns b"" until a whole message is there, and at the end."""
        message = self._reader.feed(data)
        match message:
            case None:
                return b""
            case Answer() if self._keys is None:
                self._keys = self._half.finish(message.share)
                name = self._keys.seal(self._keys.joiner_seal, self._name.encode("utf-8")[:512])
                return _pack(Confirm(self._keys.joiner_mac, name))
            case Welcome() if self._keys is not None and self.gift is None:
                self.gift = self._unwrap(message, self._keys)
                return b""
            case Refused() if self._keys is not None:
                raise WrongCode(_wrong(message.left))
            case Closed():
                raise _closed(message.why)
        raise MalformedFrame("The inviting device broke the order of the exchange.")

    def _unwrap(self, welcome: Welcome, keys: _Keys) -> Gift:
        if not hmac.compare_digest(welcome.mac, keys.inviter_mac):
            raise MalformedFrame("The device that answered does not know the code that it was asked for.")
        try:
            return _gifts.decode(keys.open(keys.inviter_seal, welcome.gift))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedFrame(f"The inviting device handed over no secret: {error}.") from error


class _Half:
    """One side of SPAKE2 over Ed25519 (the package `spake2`), bound to the certificate between the two."""

    def __init__(self, code: Code, fingerprint: bytes, *, joins: bool) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B

        self._who = (b"swarm joiner " + fingerprint, b"swarm inviter " + fingerprint)
        self._joins = joins
        self._spake = (SPAKE2_A if joins else SPAKE2_B)(code.letters.encode("ascii"), *self._who)
        self.share: bytes = self._spake.start()

    def finish(self, share: bytes) -> _Keys:
        """Raises `MalformedFrame` for a share that is no point of the curve, or not one that may be used."""
        from spake2 import SPAKEError
        from spake2.ed25519_basic import NotOnCurve

        try:
            key: bytes = self._spake.finish(share)
        except (SPAKEError, NotOnCurve, ValueError, AssertionError) as error:
            raise MalformedFrame(
                "The other device sent a share that is none; somebody may be playing tricks."
            ) from error
        shares = (self.share, share) if self._joins else (share, self.share)
        return _Keys(key, sha256(b"".join(sha256(each).digest() for each in (*self._who, *shares))).digest())


class _Keys:
    """What both sides have, and nobody else, when they used the same code and saw the same certificate."""

    def __init__(self, key: bytes, transcript: bytes) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        made = HKDF(SHA256(), 128, salt=transcript, info=b"swarm pairing v1").derive(key)
        self._transcript = transcript
        self.joiner_mac = hmac.digest(made[:32], b"joiner" + transcript, "sha256")
        self.inviter_mac = hmac.digest(made[32:64], b"inviter" + transcript, "sha256")
        self.joiner_seal, self.inviter_seal = made[64:96], made[96:]

    def seal(self, key: bytes, content: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        return ChaCha20Poly1305(key).encrypt(_NONCE, content, self._transcript)

    def open(self, key: bytes, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        try:
            return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, self._transcript)
        except (InvalidTag, ValueError) as error:
            raise MalformedFrame("What the other device sealed was changed on the way.") from error


def _agree(code: Code, fingerprint: bytes, share: bytes) -> tuple[bytes, _Keys]:
    half = _Half(code, fingerprint, joins=False)
    return half.share, half.finish(share)


class _Reader:
    """Whole messages out of pieces: two bytes of length, then msgpack. Holds at most one message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> _Message | None:
        self._buffer += data[: MAX_MESSAGE_BYTES + 3]
        if len(self._buffer) < 2:
            return None
        end = 2 + int.from_bytes(self._buffer[:2], "big")
        if end > MAX_MESSAGE_BYTES:
            raise FrameTooLarge(f"A message of {end} bytes is too long; {MAX_MESSAGE_BYTES} are allowed.")
        if len(self._buffer) > end:
            raise MalformedFrame("The other device spoke out of turn.")
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[2:])
        self._buffer.clear()
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedFrame(f"The other device sent no message of this exchange: {error}.") from error


def _pack(message: _Message) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(2, "big") + body


def _wrong(left: int) -> str:
    again = f"{left} more may be tried" if left else "no more may be tried: run `swarm invite` again there"
    return (
        f"That is not the code which the inviting device shows; {again}. If it was typed right, somebody may stand "
        "between the two devices."
    )


def _closed(why: Why) -> SwarmError:
    match why:
        case "version":
            return VersionMismatch(
                "The inviting device pairs in another way; install the same version of swarm on both."
            )
        case "late":
            return DoorClosed("The invitation is over, its two minutes have passed; run `swarm invite` again there.")
        case "guessed":
            return DoorClosed("The invitation is over after three wrong codes; run `swarm invite` again there.")
        case "taken":
            return DoorClosed("The invitation has let another device in already; run `swarm invite` again there.")
