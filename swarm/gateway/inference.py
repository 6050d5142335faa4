"""One inference request: parsed, asked of a session in as many pieces as its plan needs, joined, and written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

import numpy as np

from swarm.errors import BadInput, DeadlineExceeded, PeerError, SwarmError, UsageError
from swarm.gateway.asking import parse
from swarm.gateway.bodies import IN_LOOP_BYTES
from swarm.gateway.replying import Answered, reply
from swarm.gateway.signature import Signature
from swarm.gateway.statuses import Reply
from swarm.plan import INPUT
from swarm.result import Result
from swarm.session import Session
from swarm.types import Array

DEADLINE_S: Final = 60.0
MAX_DEADLINE_S: Final = 600.0
"""A client may ask for more, and gets this."""


async def infer(session: Session, signature: Signature, body: bytes | bytearray, header_length: str | None) -> Reply:
    """A session's answer to the body of a request.

    :param header_length: see `swarm.gateway.asking.parse`.
    :raises BadInput: the request makes no sense; and whatever else the session raises.
    """
    began = monotonic()
    if len(body) > IN_LOOP_BYTES:
        asked = await asyncio.to_thread(parse, body, header_length, signature)
    else:
        asked = parse(body, header_length, signature)
    deadline = began + min(asked.timeout_s or DEADLINE_S, MAX_DEADLINE_S)
    answered = await _answered(session, asked.x, deadline)
    if answered.output.nbytes > IN_LOOP_BYTES:
        return await asyncio.to_thread(reply, asked, answered, signature)
    return reply(asked, answered, signature)


async def _answered(session: Session, x: Array | list[bytes], deadline: float) -> Answered:
    most = session.plan.max_batch
    try:
        if len(x) <= most:
            result = await session(x, deadline_s=max(0.0, deadline - monotonic()), waits=False)
            return Answered(result.output, (result,))
        return _joined([await _piece(session, x[at : at + most], deadline) for at in range(0, len(x), most)])
    except (UsageError, PeerError, DeadlineExceeded):
        raise
    except SwarmError as error:
        if not isinstance(x, list) and x.dtype == np.float32 and not np.isfinite(x).all():
            raise BadInput(f"'{INPUT}' has values that are no numbers: {error}") from error
        raise


async def _piece(session: Session, x: Array | list[bytes], deadline: float) -> Result:
    left = deadline - monotonic()
    if left <= 0:
        raise DeadlineExceeded("The time of the request was over before all of its rows were answered; send fewer.")
    return await session(x, deadline_s=left, waits=False)


def _joined(results: Sequence[Result]) -> Answered:
    return Answered(np.concatenate([result.output for result in results]), results)
