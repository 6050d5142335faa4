"""`swarm join --http`: what was asked of the gateway on the command line, and the gateway itself."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.cli.show import say
from swarm.errors import BadInput, SwarmError, UsageError
from swarm.types import Address

if TYPE_CHECKING:
    from swarm.gateway import Gateway
    from swarm.peer import Peer


@dataclass(frozen=True, slots=True)
class Http:
    """Where to listen, who may ask, and what is loaded at once."""

    address: Address
    token: str | None
    serve: tuple[str, ...]
    names: tuple[str, ...]

    def at(self, address: Address) -> Http:
        """The same at another port: the one that was free at the first start."""
        return replace(self, address=address)


def asked(
    http: Address | None,
    http_token: str | None,
    http_token_file: str | None,
    http_name: tuple[str, ...],
    serve: tuple[str, ...],
) -> Http | None:
    """What the flags say; None without `--http`. Raises `UsageError` for flags that make no sense together."""
    if http is None:
        if serve:
            raise UsageError("--serve names models for HTTP clients; give --http too.")
        return None
    if http_token_file is not None:
        if http_token is not None:
            raise UsageError("A token and a --http-token-file were given; give one of them.")
        http_token = _from_file(Path(http_token_file))
    return Http(http, http_token, serve, http_name)


@asynccontextmanager
async def opened(
    peer: Peer, http: Http | None, on_failed: Callable[[SwarmError], None]
) -> AsyncIterator[Gateway | None]:
    """The gateway that was asked for, for as long as the block runs; None when there is none. `on_failed` is told of a
    model that it never can serve."""
    if http is None:
        yield None
        return
    from swarm.gateway import Gateway

    own = platform.node()
    names = (*http.names, *((own, f"{own.split('.')[0]}.local") if own else ()))
    where = http.address
    gateway = Gateway(
        peer, where.host, where.port, http.token, http.serve, names=names, on_problem=say, on_failed=on_failed
    )
    async with gateway:
        yield gateway


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The HTTP token in {path} cannot be read: {error}.") from error
