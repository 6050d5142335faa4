"""Where one user's swarm secret and the keys of this device's peers are kept.

    ~/.config/swarm/             or what SWARM_HOME names
        secret                   makes this device one of the swarm's
        identity/0.pem  1.pem …  key and certificate of the first peer that runs here, of a second beside it, …
        identity/0.lock          held while a peer uses that slot

A peer that comes back finds its slot free again, and with it its id. All files are for the user alone.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from swarm import atomic
from swarm.errors import BadInput
from swarm.secret import Secret
from swarm.trust import Authority, Credentials, bundle, credentials, load, new_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509 import Certificate
    from filelock import BaseFileLock

log = logging.getLogger(__name__)

MAX_SLOTS: Final = 64
MAX_FILE_BYTES: Final = 16 * 1024
MAX_SECRET_BYTES: Final = 128
LOCK_S: Final = 5.0

_SEAL: Final = "swarm identity, sealed "


def config_folder() -> Path:
    """`SWARM_HOME`, or the user's configuration folder for swarm."""
    named = os.environ.get("SWARM_HOME")
    return Path(named) if named else Path(platformdirs.user_config_dir("swarm", appauthor=False))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is for as long as it runs; `release` gives the slot to the next one."""

    credentials: Credentials
    lock: BaseFileLock

    def release(self) -> None:
        self.lock.release()


class Keyring:
    """One folder of secret and keys. All methods read or write files: call them in a thread."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or config_folder()
        self.secret_file = self.folder / "secret"

    def secret(self) -> Secret | None:
        """The secret that is kept here, or None. Raises `BadInput` when it is damaged or others can read it."""
        try:
            check_private(self.secret_file)
            return read_secret(self.secret_file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"The secret in {self.secret_file} cannot be read: {error.strerror or error}.") from error

    def keep(self, secret: Secret) -> None:
        """Put `secret` in the place of the one that was here, if any."""
        with self._writing():
            self._write(secret)

    def check_room(self) -> None:
        """Raise `BadInput` where `keep` would: better before a code is used up than after."""
        with self._writing():
            trial = self.folder / "secret.trial"
            atomic.replace(trial, bytes(MAX_SECRET_BYTES))
            trial.unlink()

    def set_aside(self, secret: Secret) -> Path | None:
        """Where the secret that is kept here was copied to, for it is another one and may be its swarm's last; None
        when there is nothing to lose."""
        with self._writing():
            try:
                before = read_secret(self.secret_file)
            except (FileNotFoundError, BadInput):
                return None
            if before == secret:
                return None
            aside = self.secret_file.with_suffix(".before")
            atomic.replace(aside, f"{before.reveal()}\n".encode("ascii"))
            return aside

    def make(self) -> Secret:
        """The secret that is kept here, or else a new one; of several that call at once, one makes it."""
        with self._writing():
            secret = self.secret()
            if secret is None:
                secret = Secret.new()
                self._write(secret)
            return secret

    def identity(self, secret: Secret, *, new: bool = False) -> Identity | None:
        """Take the first free slot: its key, with a leaf of that secret's swarm. With `new` its key is made anew.

        None when nothing can be kept here (a read-only folder, or `MAX_SLOTS` peers): use `trust.ephemeral` then.
        Raises `BadInput` when others can read the key.
        """
        try:
            for number in range(MAX_SLOTS):
                if (lock := self._take(number)) is not None:
                    break
            else:
                return None
        except (OSError, NotImplementedError) as error:
            log.warning("No key can be kept in %s: %s", self.folder, error)
            return None
        try:
            return Identity(_settle(self.folder / "identity" / f"{number}.pem", secret, new=new), lock)
        except OSError as error:
            lock.release()
            log.warning("No key can be kept in %s: %s", self.folder, error)
            return None
        except BaseException:
            lock.release()
            raise

    def _take(self, number: int) -> BaseFileLock | None:
        from filelock import FileLock, Timeout

        slots = self.folder / "identity"
        slots.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(slots / f"{number}.lock", timeout=0, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _write(self, secret: Secret) -> None:
        atomic.replace(self.secret_file, f"{secret.reveal()}\n".encode("ascii"))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self.folder / "secret.lock", timeout=LOCK_S, mode=0o600, thread_local=False):
                yield
        except Timeout:
            raise BadInput(f"Another program holds {self.folder / 'secret.lock'}; try again when it is done.") from None
        except (OSError, NotImplementedError) as error:  # the latter where a network's file system knows no locks
            why = getattr(error, "strerror", None) or error
            raise BadInput(
                f"The swarm's secret cannot be kept in {self.folder}: {why}. Name another folder "
                "in SWARM_HOME, or hand the secret over in SWARM_SECRET."
            ) from error


def read_secret(file: Path) -> Secret:
    """The secret in any file. Raises `BadInput`, and `FileNotFoundError` when there is no such file."""
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"The secret in {file} cannot be read: {error.strerror or error}.") from error
    return Secret.parse(text, f"What {file} holds")


def check_private(file: Path) -> None:
    """Raise `BadInput` when other users of this device can read or change `file`. Windows keeps the folder private."""
    if os.name != "posix":
        return
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise BadInput(
            f"Other users of this device can get at {file} (mode {mode:03o}). If none of them has, make it private: "
            f"chmod 600 {file}. If one may have, change the secret too: swarm secret rotate."
        )


def _settle(file: Path, secret: Secret, *, new: bool) -> Credentials:
    """Credentials from the slot's file, after mending what is missing or belongs to another secret."""
    if not new and (kept := _sealed(file, secret)) is not None:
        return kept
    authority = Authority(secret)
    key, leaf = (None, None) if new else _read(file)
    if key is None:
        key, leaf = new_key(), None
    if leaf is None or not authority.has_issued(leaf) or leaf.public_key() != key.public_key():
        leaf = authority.issue(key.public_key())
    text = f"{authority.tag}\n{bundle(authority, key, leaf)}"
    atomic.replace(file, f"{_SEAL}{_seal(secret, text)}\n{text}".encode("ascii"))
    return credentials(authority, key, leaf)


def _sealed(file: Path, secret: Secret) -> Credentials | None:
    """What was put here under the same secret: it was checked then, and need not be again."""
    try:
        text = file.read_bytes()[:MAX_FILE_BYTES].decode("ascii")
    except (OSError, ValueError):
        return None
    seal, _, text = text.removeprefix(_SEAL).partition("\n")
    if not hmac.compare_digest(seal.encode(), _seal(secret, text).encode()):
        return None
    check_private(file)
    tag, _, pem = text.partition("\n")
    return load(pem, tag)


def _seal(secret: Secret, text: str) -> str:
    return hmac.digest(secret.raw(), b"swarm identity v1" + text.encode("ascii"), "sha256").hex()


def _read(file: Path) -> tuple[Ed25519PrivateKey | None, Certificate | None]:
    """What the slot holds; nothing, said in the log, when it is damaged: a power cut is no reason to stay away."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with contextlib.suppress(FileNotFoundError):
        check_private(file)
        pem = file.read_bytes()[:MAX_FILE_BYTES]
        try:
            key, leaf = load_pem_private_key(pem, None), x509.load_pem_x509_certificate(pem)
            if isinstance(key, Ed25519PrivateKey):
                return key, leaf
        except (ValueError, TypeError) as error:
            log.warning("The key in %s is damaged, so this peer gets a new one and a new id: %s", file, error)
    return None, None
