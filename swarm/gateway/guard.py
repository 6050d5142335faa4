"""Who may ask, and from where: a token for programs, and a wall against pages in this device's own browser.

A page of any web site may send requests to this device's loopback, and by DNS rebinding it may even read the answers as
its own. Such requests name a foreign host in `Host`, or their page in `Origin`; both are refused here, before anything
of the request is used, on every method and path.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final

from swarm.errors import UsageError
from swarm.gateway.statuses import Reply, refused

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_TOKEN: Final = 16
_MAX_KNOWN: Final = 64
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?", re.ASCII)


class Guard:
    """Judges the headers of every request.

    :param host: where the gateway listens: an address or a name.
    :param names: more names that clients reach it under.
    :param token: what clients have to send as `Authorization: Bearer TOKEN`.
    :raises UsageError: no token although others than this device can connect, or one that is easily guessed.
    """

    def __init__(self, host: str, names: Iterable[str], token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise UsageError(
                f"Others on the network could ask at {host}, so HTTP needs a token there: make one with "
                "`openssl rand -hex 16` and give it as SWARM_HTTP_TOKEN or in a file with --http-token-file."
            )
        if token is not None and not (len(token) >= MIN_TOKEN and token.isascii() and token.isprintable()):
            raise UsageError(
                f"The HTTP token has to be at least {MIN_TOKEN} printable ASCII characters; make one with "
                "`openssl rand -hex 16`."
            )
        self._names = LOOPBACK_NAMES | {_plain(name) for name in (host, *names) if _plain(name)}
        self._is_everywhere = _is_everywhere(host)
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._known: set[str] = set()
        """Values of `Host` that were found right."""

    def refusal(self, headers: Mapping[str, str]) -> Reply | None:
        """None for a request that may pass."""
        host = headers.get("Host", "")
        if host not in self._known and not self._learn(host):
            return refused(
                403,
                f"This server is not called '{host[:100]}'. If it is, start it with --http-name and that name.",
                closes=True,
            )
        if "Origin" in headers and not _is_same(headers["Origin"], host):
            return refused(403, "Pages of other sites may not ask here.", closes=True)
        if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            return refused(403, "Pages of other sites may not ask here.", closes=True)
        if self._expected is not None and not self._may(headers.get("Authorization", "")):
            why = "The token is missing or wrong; send it as the header 'Authorization: Bearer TOKEN'."
            return refused(401, why, {"WWW-Authenticate": "Bearer"}, closes=True)
        return None

    def _learn(self, host: str) -> bool:
        """Whether it is one of this server's names; an IP address, which no DNS can turn, where it listens on all."""
        name = _name_of(host)
        is_ours = name in self._names or (self._is_everywhere and _is_ip(name))
        if is_ours and len(self._known) < _MAX_KNOWN:
            self._known.add(host)
        return is_ours

    def _may(self, authorization: str) -> bool:
        assert self._expected is not None
        scheme, _, token = authorization.partition(" ")
        given = f"{scheme.title()} {token.strip()}".encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._expected)


def is_loopback(host: str) -> bool:
    """Whether only this device can connect there."""
    return _plain(host) == "localhost" or (_is_ip(_plain(host)) and ip_address(_plain(host)).is_loopback)


def _is_same(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    return scheme in ("http", "https") and authority.lower() == host.lower()


def _is_everywhere(host: str) -> bool:
    return not host or (_is_ip(_plain(host)) and ip_address(_plain(host)).is_unspecified)


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The name or address in a `Host` header, without its port; empty for what is neither."""
    found = _HOST.fullmatch(host)
    return _plain(found[1]) if found else ""


def _plain(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")
