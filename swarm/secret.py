"""The one thing that all devices of a swarm share, as 32 bytes and as text that people can copy. Pure.

    swarm1-mxrpwz4w5vad5c5q7xnim3liazz46lzsxulc4zfbfdoeq24ibkwhc6nk

Everything else, the swarm's certificates above all, is derived from it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from hashlib import sha256
from typing import Final

from swarm.errors import BadInput

SECRET_BYTES: Final = 32
PREFIX: Final = "swarm1-"

_CHECK_BYTES: Final = 3  # makes up 35 bytes, which base32 writes without padding
_LETTERS: Final = (SECRET_BYTES + _CHECK_BYTES) * 8 // 5


class Secret:
    """What all devices of a swarm share. Neither `repr` nor an error shows it; only `reveal` does."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        self._raw = raw

    @classmethod
    def new(cls) -> Secret:
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str, where: str = "The text given") -> Secret:
        """Read what `reveal` wrote; case and surrounding space do not matter. Raises `BadInput` that names `where`
        it stood and does not repeat it."""
        letters = text.strip().lower()
        if not letters.startswith(PREFIX):
            raise BadInput(
                f"{where} is not a swarm secret, which begins with '{PREFIX}'; `swarm secret show --reveal` prints it "
                "on a device that is in the swarm."
            )
        letters = letters.removeprefix(PREFIX)
        if len(letters) != _LETTERS:
            raise BadInput(
                f"{where} is not a whole swarm secret: it has {len(letters)} characters after '{PREFIX}' instead of "
                f"{_LETTERS}; copy all of it."
            )
        try:
            both = base64.b32decode(letters, casefold=True)
        except (binascii.Error, ValueError):
            raise BadInput(f"{where} holds a character that is in no swarm secret; copy it again.") from None
        raw, check = both[:SECRET_BYTES], both[SECRET_BYTES:]
        if not hmac.compare_digest(check, _check(raw)):
            raise BadInput(f"{where} was mistyped: its last characters do not fit the others; copy it again.")
        return cls(raw)

    def reveal(self) -> str:
        """The secret as text, for a file or a variable: whoever reads it is in the swarm."""
        return PREFIX + base64.b32encode(self._raw + _check(self._raw)).decode("ascii").lower()

    def raw(self) -> bytes:
        """The same, as the bytes that it is."""
        return self._raw

    def derive(self, purpose: bytes, nbytes: int = 32) -> bytes:
        """A key for one purpose (HKDF-SHA256, RFC 5869); it tells nothing of the secret or of other keys."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), nbytes, salt=None, info=purpose).derive(self._raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return "Secret(…)"


def _check(raw: bytes) -> bytes:
    return sha256(b"swarm secret" + raw).digest()[:_CHECK_BYTES]
