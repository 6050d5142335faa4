"""Trying a link: how long a small message takes to and fro, and how fast large ones go, there and back.

    initiator                                   the other
      range, empty, several times ──────────▶     takes its seat: nobody else tries it now
      range with a body: 32 KB, 128 KB, … ──▶     a small reply
      range, wishing a reply of so many   ──▶     the reply: 32 KB, 128 KB, …
      ranged: what the way back is like   ──▶     keeps it, and frees its seat

Bodies grow until one takes long enough to be told from noise, so a fast link costs about 3 MB each way and a slow one
32 KB. It is all done on the connection that carries tensors. Two trials at once would measure each other: a device
takes part in one at a time, and others hear `Overloaded` meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Annotated, Any, Final

from msgspec import Meta

from swarm import schema
from swarm.errors import DeadlineExceeded, FrameTooLarge, MalformedFrame, Overloaded
from swarm.exchange import Caller, Exchange
from swarm.linkbook import MAX_BYTES_PER_S, MAX_RTT_S, MIN_BYTES_PER_S
from swarm.transport import Call, Reply, Router
from swarm.types import Link, PeerId

SIZES_BYTES: Final = (32 * 2**10, 128 * 2**10, 512 * 2**10, 2 * 2**20)
MAX_BYTES: Final = SIZES_BYTES[-1]
ROUND_TRIPS: Final = 5
LONG_ENOUGH_S: Final = 0.03
STEP_TIMEOUT_S: Final = 5.0
"""For one message of a trial; a link that is slower than 32 KB in this time counts as just so fast."""
SLOW_START_TRIPS: Final = 10
"""A young connection spends up to so many round trips on growing its window; what took longer was not that."""
SLOW_STARTS: Final = 2
SEAT_S: Final = 15.0
QUIET_S: Final = 5.0
"""A seat is free again after `SEAT_S`, or when nothing was asked for so long."""
MINUTE_S: Final = 60.0
BYTES_EACH: Final = 32 * 2**20
BYTES_IN_ALL: Final = 256 * 2**20
"""To and fro in a minute: nobody can make this peer send for ever."""
CALL_BYTES: Final = 16 * 2**10
"""What a call costs beside its bytes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How long a reply to make."""

    reply_bytes: Annotated[int, Meta(ge=0, le=MAX_BYTES)] = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """The way to whoever says this, from the one who hears it, as measured just now."""

    rtt_s: Annotated[float, Meta(gt=0, lt=MAX_RTT_S)]
    bytes_per_s: Annotated[float, Meta(ge=MIN_BYTES_PER_S, le=MAX_BYTES_PER_S)]


@dataclass(frozen=True, slots=True)
class Sounding:
    """What a trial found: the way there, and the way back."""

    there: Link
    back: Link


@dataclass(slots=True)
class _Sitting:
    peer: PeerId
    is_mine: bool
    """This peer began the trial."""
    since: float
    asked_at: float
    given_bytes: int = 0


class Seat:
    """With whom a trial goes on, and how much others may still ask for. Pure; `now` in seconds of one clock."""

    def __init__(self) -> None:
        self._sitting: _Sitting | None = None
        self._spent: Counter[PeerId] = Counter()
        self._minute_began = 0.0

    def take_mine(self, peer: PeerId, now: float) -> None:
        """Begin to try `peer`. Raises `Overloaded` while another trial goes on."""
        if self._taken_by(now) is not None:
            raise Overloaded("This peer's links are being tried just now; try again in a second.")
        self._sitting = _Sitting(peer, True, now, now)

    def take(self, peer: PeerId, sent_bytes: int, reply_bytes: int, now: float) -> None:
        """`peer` tries this one, and asks for so much. Raises `Overloaded` when another does, or it had enough."""
        sitting = self._taken_by(now)
        if sitting is not None and (sitting.is_mine or sitting.peer != peer):
            raise Overloaded("Another trial of a link goes on here; try again in a second.")
        self._spend(peer, sent_bytes + reply_bytes + CALL_BYTES, now)
        if sitting is None:
            sitting = self._sitting = _Sitting(peer, False, now, now)
        sitting.asked_at = now
        sitting.given_bytes += reply_bytes

    def leave(self, peer: PeerId, *, is_mine: bool) -> int:
        """The trial with `peer` is over: how many bytes it was given. 0 when there was none."""
        sitting = self._sitting
        if sitting is None or (sitting.peer, sitting.is_mine) != (peer, is_mine):
            return 0
        self._sitting = None
        return sitting.given_bytes

    def _taken_by(self, now: float) -> _Sitting | None:
        sitting = self._sitting
        if sitting is None or sitting.is_mine:
            return sitting
        return sitting if now - sitting.asked_at < QUIET_S and now - sitting.since < SEAT_S else None

    def _spend(self, peer: PeerId, nbytes: int, now: float) -> None:
        if now - self._minute_began >= MINUTE_S:
            self._spent.clear()
            self._minute_began = now
        if self._spent[peer] + nbytes > BYTES_EACH or self._spent.total() + nbytes > BYTES_IN_ALL:
            raise Overloaded("The link to this peer was tried often enough; try again in a minute.")
        self._spent[peer] += nbytes


class Soundings:
    """Both ends of trials. `register` its methods; `on_found` hears what others found of the way to them."""

    def __init__(
        self, exchange: Exchange, on_found: Callable[[PeerId, Link], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self._exchange = exchange
        self._on_found = on_found
        self._clock = clock
        self._seat = Seat()

    def register(self, router: Router) -> None:
        router.add("range", self._range, self._admit)
        router.add("ranged", self._ranged)

    async def sound(self, peer: PeerId) -> Sounding:
        """Try the link to `peer`, both ways; about 0.1 s on a fast one, and some seconds on a very slow one.

        Raises `Overloaded` while either of the two is in another trial, and whatever `Exchange.request` does.
        """
        with self._seated(peer):
            rtt_s = median([await self._timed(peer, b"", 0) for _ in range(ROUND_TRIPS + 1)][1:])
            there = await _rate(lambda nbytes: self._timed(peer, bytes(nbytes), 0), rtt_s)
            back = await _rate(lambda nbytes: self._timed(peer, b"", nbytes), rtt_s)
            finding = schema.pack(Finding(rtt_s, back))
            await self._exchange.notify(peer, "ranged", finding, timeout_s=STEP_TIMEOUT_S)
            return Sounding(Link(rtt_s, there), Link(rtt_s, back))

    @contextmanager
    def _seated(self, peer: PeerId) -> Iterator[None]:
        self._seat.take_mine(peer, self._clock())
        try:
            yield
        finally:
            self._seat.leave(peer, is_mine=True)

    async def _timed(self, peer: PeerId, body: bytes, reply_bytes: int) -> float:
        """Seconds until the answer. The first call of a trial may have to dial."""
        began = self._clock()
        reply = await self._exchange.request(
            peer,
            "range",
            schema.pack(Wish(reply_bytes)),
            body,
            timeout_s=STEP_TIMEOUT_S,
            purpose="tensors",
            reply_bytes=reply_bytes,
        )
        if len(reply.body) != reply_bytes:
            raise MalformedFrame(f"Peer {peer[:8]} was asked for {reply_bytes} bytes and sent {len(reply.body)}.")
        return max(1e-9, self._clock() - began)

    def _admit(self, caller: Caller, fields: dict[str, Any], nbytes: int) -> Wish:
        if nbytes > MAX_BYTES:
            raise FrameTooLarge(f"A link is tried with {MAX_BYTES} bytes at most, not with {nbytes}.")
        wish = schema.unpack(Wish, fields)
        self._seat.take(caller.remote.id, nbytes, wish.reply_bytes, self._clock())
        return wish

    def _range(self, caller: Caller, call: Call) -> Reply:
        wish: Wish = call.admitted or self._admit(caller, call.fields, 0)
        return Reply({}, bytes(wish.reply_bytes))

    def _ranged(self, caller: Caller, call: Call) -> None:
        """Only whoever was just given bytes to measure with has measured anything."""
        if self._seat.leave(caller.remote.id, is_mine=False) >= SIZES_BYTES[0]:
            finding = schema.unpack(Finding, call.fields)
            self._on_found(caller.remote.id, Link(finding.rtt_s, finding.bytes_per_s))


async def _rate(timed: Callable[[int], Awaitable[float]], rtt_s: float) -> float:
    """Bytes in a second, by the largest body that was worth sending; `timed` sends one and tells how long it took."""
    rate = 0.0
    for nbytes in SIZES_BYTES:
        try:
            spare_s = await _spare_s(timed, nbytes, rtt_s)
        except DeadlineExceeded:
            return rate or nbytes / STEP_TIMEOUT_S
        rate = min(MAX_BYTES_PER_S, nbytes / spare_s)
        if spare_s >= LONG_ENOUGH_S:
            break
    return rate


async def _spare_s(timed: Callable[[int], Awaitable[float]], nbytes: int, rtt_s: float) -> float:
    """What `nbytes` take beside the round trip; sent again where slow start may have held it up."""
    best_s = await timed(nbytes)
    for _ in range(SLOW_STARTS):
        if not LONG_ENOUGH_S + rtt_s <= best_s < SLOW_START_TRIPS * rtt_s:
            break
        best_s = min(best_s, await timed(nbytes))
    return max(best_s - rtt_s, best_s / 10)
