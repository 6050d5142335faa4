"""What a failed dial means, in words that help."""

from __future__ import annotations

import socket
import ssl

from swarm.errors import FrameTooLarge, MalformedFrame, PeerLost, PeerUnreachable, SwarmError
from swarm.refusal import explain
from swarm.types import Address


def unreachable(address: Address, error: SwarmError | OSError | ValueError, timeout_s: float) -> SwarmError:
    """The error to raise for what went wrong on the way to `address`; a sentence from the other side is kept."""
    if isinstance(error, OSError | ValueError):
        return PeerUnreachable(_no_connection(address, error, timeout_s))
    if isinstance(error, PeerLost):
        return PeerUnreachable(
            f"{address} took the connection and hung up before saying hello; is it a peer of this swarm, let in with "
            "the same secret, with its clock right and without --open? `swarm doctor` looks into it."
        )
    if isinstance(error, MalformedFrame | FrameTooLarge):
        return PeerUnreachable(
            f"Something listens at {address}, but it is not a swarm peer, or it is encrypted and this device runs with "
            "--open; check the port."
        )
    return error


def _no_connection(address: Address, error: OSError | ValueError, timeout_s: float) -> str:
    match error:
        case TimeoutError():
            return (
                f"{address} did not answer within {timeout_s:.3g} s; is it switched on and in the same network, and "
                "does no firewall stand between?"
            )
        case ConnectionResetError():
            return (
                f"{address} broke the connection at once; is it a swarm peer, and does it run with --open where this "
                "device does not, or the other way round?"
            )
        case ConnectionRefusedError():
            return f"Nothing listens at {address}; is swarm running there, on that port?"
        case ssl.SSLError():
            return f"{address} {explain(error)}"
        case socket.gaierror():
            return f"The name {address.host} is unknown in this network; write its IP address instead."
        case ValueError():
            return f"{address.host!r} is not the name of a host; write its IP address instead."
        case _:
            return f"{address} cannot be reached: {error.strerror or error}; check that both are in the same network."
