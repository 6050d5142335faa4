"""Why two devices could not agree on encryption, in words that help the person who owns them."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import Final

from swarm.trust import VALID

_ANOTHER_ISSUER: Final = (7, 18, 19, 20, 21)
"""X509_V_ERR_…: no issuer, or not the expected one, or not its signature."""
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10


def explain(error: ssl.SSLError) -> str:
    """What stopped a TLS connection, as the rest of a sentence that begins with the other side's address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(error)
    reason = getattr(error, "reason", None) or ""  # one that Python itself raises has none
    if "ALERT" in reason:
        return _refused(reason)
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason or "RECORD" in reason or "PACKET" in reason:
        return (
            "answers without encryption: it runs with --open, or is no swarm peer. Start all devices with --open or "
            "all without, and check the port."
        )
    if "PROTOCOL" in reason:
        return "offers no TLS 1.3, so it is no swarm peer; check the port."
    return f"could not agree on encryption ({reason or error}); is it a peer of this swarm?"


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _ANOTHER_ISSUER:
        return (
            "is in another swarm: its certificate comes from another secret. To bring this device into that swarm, "
            "run `swarm invite` there and `swarm join --code CODE` here."
        )
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        valid = "not valid yet" if error.verify_code == _NOT_YET_VALID else "not valid any more"
        return f"shows a certificate that is {valid} by this device's clock, which says {_today()}; set the clock."
    return f"shows a certificate that is no swarm peer's ({error.verify_message}); check the port."


def _refused(reason: str) -> str:
    if "EXPIRED" in reason or "BAD_CERTIFICATE" in reason:
        return (
            f"refused this device's certificate; is its clock right? This device's says {_today()}, and certificates "
            f"are good from {VALID[0].year} to {VALID[1].year}."
        )
    if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason or "DECRYPT_ERROR" in reason:
        return (
            "refused this device's certificate, which comes from another secret: it is in another swarm. Run "
            "`swarm invite` there and `swarm join --code CODE` here."
        )
    if "PROTOCOL_VERSION" in reason:
        return "speaks no TLS 1.3, so it is no swarm peer; check the port."
    return f"broke off the encryption ({reason}); is it a peer of this swarm?"


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
