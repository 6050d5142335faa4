"""What makes devices one swarm: a secret, and the certificates that come from it.

    Secret, 32 bytes ──HKDF──▶ Authority: a key and a CA certificate, byte for byte the same on every device
                                   │ issue
                                   ▼
                        a leaf for each peer ──SHA-256──▶ PeerId
                                   │
                                   ▼
                        Credentials: that id, the swarm's tag, and a TLS context for each direction

Whoever holds the secret is in the swarm, and can make a leaf of its own; nobody can make another peer's. Certificates
name no host, and live from 2020 to 2120 whatever the clock said when they were made: a device whose clock is years off
still takes part, one that believes in 1970 is told so. To put a device out, the secret is changed.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarm.errors import BadInput
from swarm.secret import Secret
from swarm.types import PeerId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.x509 import Certificate, CertificateBuilder, KeyUsage

VALID: Final = (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
ID_DIGITS: Final = 32
TAG_DIGITS: Final = 8

_DESCRIPTORS: Final = Path("/proc/self/fd")
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"


class Authority:
    """The swarm's CA. Made from the same secret it is the same on every device. Costs about a millisecond."""

    def __init__(self, secret: Secret) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(secret.derive(b"swarm ca key v1"))
        public = self._key.public_key()
        self.tag = _tag(public)
        """Names the swarm to those who look for it on the network, and tells nothing of the secret; 8 hex digits."""
        self.certificate = (
            _builder("swarm", "swarm", public, serial=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .sign(self._key, None)
        )

    def issue(self, public: Ed25519PublicKey, valid: tuple[dt.datetime, dt.datetime] = VALID) -> Certificate:
        """A leaf for the holder of a key, each time a new one."""
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        sides = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            _builder("swarm peer", "swarm", public, serial=x509.random_serial_number(), valid=valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(sides), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, None)
        )

    def has_issued(self, certificate: Certificate) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one peer shows and demands on every connection; for `TcpTransport(c.server, c.client, identify=identify)`.

    Both contexts: TLS 1.3 alone, a certificate of this swarm from the other side too, no host names, no resumption.
    """

    id: PeerId
    tag: str
    server: ssl.SSLContext
    client: ssl.SSLContext


def new_key() -> Ed25519PrivateKey:
    """A key for one peer."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def to_pem(key: Ed25519PrivateKey, leaf: Certificate) -> bytes:
    """A private key and its certificate as one text."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.public_bytes(Encoding.PEM)


def credentials(authority: Authority, key: Ed25519PrivateKey, leaf: Certificate) -> Credentials:
    """Contexts for a peer of that swarm; see `load`."""
    return load(bundle(authority, key, leaf), authority.tag)


def bundle(authority: Authority, key: Ed25519PrivateKey, leaf: Certificate) -> str:
    """All that `load` needs, as one text: a private key, its certificate, and the CA's."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return (to_pem(key, leaf) + authority.certificate.public_bytes(Encoding.PEM)).decode("ascii")


def load(pem: str, tag: str) -> Credentials:
    """Contexts from a `bundle` that is known to be good. Blocks for milliseconds. Needs no `cryptography`, which takes
    11 MB. Raises `BadInput` where there is no place for a file, which Python's ssl reads keys from."""
    begins = pem.index(_CERTIFICATE)
    ca = pem.index(_CERTIFICATE, begins + 1)
    with _as_file(pem[:ca]) as file:
        server = _context(ssl.PROTOCOL_TLS_SERVER, file, pem[ca:])
        client = _context(ssl.PROTOCOL_TLS_CLIENT, file, pem[ca:])
    return Credentials(identify(ssl.PEM_cert_to_DER_cert(pem[begins:ca])), tag, server, client)


def ephemeral(secret: Secret) -> Credentials:
    """Credentials with a new key that nothing keeps; blocks for milliseconds."""
    authority, key = Authority(secret), new_key()
    return credentials(authority, key, authority.issue(key.public_key()))


def fingerprint(leaf: Certificate) -> bytes:
    """SHA-256 of a certificate in DER form."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return sha256(leaf.public_bytes(Encoding.DER)).digest()


def identify(certificate: bytes) -> PeerId:
    """The id of the peer to whom a certificate (DER) belongs: the first half of its SHA-256."""
    return PeerId(sha256(certificate).hexdigest()[:ID_DIGITS])


def _tag(public: Ed25519PublicKey) -> str:
    return sha256(b"swarm tag" + public.public_bytes_raw()).hexdigest()[:TAG_DIGITS]


@contextmanager
def _as_file(text: str) -> Iterator[Path]:
    """For as long as it takes to read it, and for the user alone: in memory where that can be, so that a process which
    is killed leaves no key behind, and a device that cannot be written to does not matter."""
    memory = _memory()
    if memory is not None:
        with os.fdopen(memory, "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            yield _DESCRIPTORS / str(memory)
        return
    file: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix="swarm-", suffix=".pem")  # mode 0600
        file = Path(name)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(text)
    except OSError as error:
        if file is not None:
            file.unlink(missing_ok=True)
        raise BadInput(
            "There is no room for a temporary file, which takes this peer's key for a moment "
            f"({error.strerror or error}). Make some, or name another folder in TMPDIR."
        ) from error
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _memory() -> int | None:
    """A descriptor of a file that has no place on any disk; None where there is no such thing."""
    if sys.platform != "linux" or not _DESCRIPTORS.exists():
        return None
    try:
        return os.memfd_create("swarm")
    except OSError:
        return None


def _context(protocol: int, file: Path, ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca)
    context.load_cert_chain(file)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def _builder(
    subject: str,
    issuer: str,
    public: Ed25519PublicKey,
    *,
    serial: int,
    valid: tuple[dt.datetime, dt.datetime] = VALID,
) -> CertificateBuilder:
    from cryptography import x509

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, certificates: bool) -> KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
