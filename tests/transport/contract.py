"""What every transport has to do: one suite, inherited by the tests of each."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from swarm.errors import (
    AddressInUse,
    DeadlineExceeded,
    Declined,
    FrameTooLarge,
    Overloaded,
    PeerLost,
    PeerUnreachable,
    SwarmError,
    TwinIdentity,
    VersionMismatch,
)
from swarm.transport import PROTOCOL, Call, Channel, Hello, Limits, Listener, Reply, Router, Transport
from swarm.transport.base import OnTwin
from swarm.types import Address, PeerId
from swarm.wire import MAX_BODY_BYTES, MAX_TIMEOUT_S, Frame, Kind

ALICE, BOB = PeerId("a" * 32), PeerId("b" * 32)
BIG = 8 * 1024 * 1024
ANYWHERE = Address("127.0.0.1", 0)


def hello(peer: PeerId, **changes: Any) -> Hello:
    return replace(Hello(PROTOCOL, peer, f"name-{peer[0]}", "control"), **changes)


def nobody(channel: Channel) -> None:
    """For listeners to whom nobody comes."""
    raise AssertionError(f"{channel.who()} came in.")


@dataclass
class Deed:
    """A service that remembers what it went through."""

    router: Router = field(default_factory=Router)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    notices: asyncio.Queue[Call] = field(default_factory=asyncio.Queue)
    admitted: list[int] = field(default_factory=list)
    running: int = 0

    def __post_init__(self) -> None:
        self.router.add("echo", lambda _, call: Reply(call.fields, call.body), self._admit)
        self.router.add("later", self._later, self._admit)
        self.router.add("wait", self._wait)
        self.router.add("decline", self._decline)
        self.router.add("bug", self._bug)
        self.router.add("tell", lambda _, call: self.notices.put_nowait(call), self._admit)
        self.router.add("remaining", lambda _, call: Reply({"s": call.remaining_s()}))

    def _admit(self, _channel: Channel, fields: dict[str, Any], nbytes: int) -> None:
        if fields.get("refuse"):
            raise Declined("No, thank you.")
        self.admitted.append(nbytes)

    async def _later(self, _: Channel, call: Call) -> Reply:
        for _turn in range(call.fields["turns"]):
            await asyncio.sleep(0)
        return Reply(call.fields, call.body)

    async def _wait(self, _: Channel, call: Call) -> Reply:
        self.running += 1
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        return Reply()

    async def _decline(self, _: Channel, call: Call) -> Reply:
        raise Declined("There is no room here.")

    def _bug(self, _: Channel, call: Call) -> Reply:
        raise ZeroDivisionError("a secret")


@dataclass
class Pair:
    """Two connected peers."""

    here: Channel
    there: Channel
    alice: Deed
    bob: Deed
    listener: Listener


class TransportContract:
    """Inherit, and say how to make a transport; `limits` are to be taken over."""

    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> Transport:
        raise NotImplementedError

    @asynccontextmanager
    async def listening(
        self, transport: Transport, service: Router, on_channel: Callable[[Channel], None], mine: Hello | None = None
    ) -> AsyncIterator[Listener]:
        listener = await transport.listen([ANYWHERE], mine or hello(BOB), service, on_channel)
        try:
            yield listener
        finally:
            await listener.aclose()

    @asynccontextmanager
    async def pair(self, limits: Limits | None = None) -> AsyncIterator[Pair]:
        transport = self.transport(limits or Limits())
        alice, bob = Deed(), Deed()
        arrived: asyncio.Queue[Channel] = asyncio.Queue()
        async with self.listening(transport, bob.router, arrived.put_nowait) as listener:
            here = await transport.dial(listener.addresses[0], hello(ALICE), alice.router, timeout_s=5)
            there = await arrived.get()
            try:
                yield Pair(here, there, alice, bob, listener)
            finally:
                await here.aclose()
                await there.aclose()

    # Asking and telling.

    async def test_both_sides_ask(self) -> None:
        async with self.pair() as pair:
            assert (pair.here.remote, pair.there.remote) == (hello(BOB), hello(ALICE))
            for side in (pair.here, pair.there):
                reply = await side.request("echo", {"n": [1, "two", None]}, b"body", timeout_s=5, reply_bytes=4)
                assert (reply.fields, bytes(reply.body)) == ({"n": [1, "two", None]}, b"body")
                later = await side.request("later", {"turns": 3}, timeout_s=5)
                assert later.fields == {"turns": 3}

    async def test_big_bodies_both_ways_at_once(self) -> None:
        async with self.pair() as pair:
            one, other = os.urandom(BIG), os.urandom(BIG)
            replies = await asyncio.gather(
                *(
                    side.request(method, {"turns": 1}, body, timeout_s=30, reply_bytes=BIG)
                    for side, body in ((pair.here, one), (pair.there, other))
                    for method in ("echo", "later")
                )
            )
            assert [reply.body == body for reply, body in zip(replies, (one, one, other, other), strict=True)] == [
                True
            ] * 4

    async def test_replies_out_of_order(self) -> None:
        async with self.pair() as pair:
            finished: list[int] = []

            async def ask(n: int) -> None:
                reply = await pair.here.request("later", {"turns": 200 - 2 * n, "n": n}, timeout_s=10)
                assert reply.fields["n"] == n
                finished.append(n)

            await asyncio.gather(*(ask(n) for n in range(100)))
            assert sorted(finished) == list(range(100))
            assert finished != sorted(finished)

    async def test_notices_arrive_in_order(self) -> None:
        async with self.pair() as pair:
            for n in range(20):
                await pair.here.notify("tell", {"n": n}, bytes(n * 1000), timeout_s=5)
            calls = [await pair.bob.notices.get() for _ in range(20)]
            assert [(call.fields["n"], len(call.body)) for call in calls] == [(n, n * 1000) for n in range(20)]

    async def test_a_received_body_is_writable_and_its_own(self) -> None:
        async with self.pair() as pair:
            for nbytes in (10, 100_000):
                reply = await pair.here.request("echo", {}, bytes(nbytes), timeout_s=5, reply_bytes=nbytes)
                memoryview(reply.body)[0] = 7

    async def test_the_deadline_travels(self) -> None:
        async with self.pair() as pair:
            reply = await pair.here.request("remaining", {}, timeout_s=50)
            assert 40 < reply.fields["s"] <= 50

    # Saying no.

    async def test_a_cancelled_request_is_cancelled_there(self) -> None:
        async with self.pair() as pair:
            asking = asyncio.create_task(pair.here.request("wait", {}, timeout_s=60))
            await pair.bob.started.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait_for(pair.bob.cancelled.wait(), 5)
            assert pair.bob.running == 0

    async def test_the_deadline_ends_it_on_both_sides(self) -> None:
        async with self.pair() as pair:
            with pytest.raises(DeadlineExceeded, match=r"name-b.*'wait'|'wait'.*given"):
                await pair.here.request("wait", {}, timeout_s=0.05)
            await asyncio.wait_for(pair.bob.cancelled.wait(), 5)

    async def test_many_deadlines_at_once(self) -> None:
        async with self.pair() as pair:
            clock = asyncio.get_running_loop().time

            async def ask(timeout_s: float) -> None:
                start = clock()
                with pytest.raises(DeadlineExceeded):
                    await pair.here.request("wait", {}, timeout_s=timeout_s)
                assert clock() - start > timeout_s - 0.003

            for _ in range(2):  # the second time, after a pause in which nobody waited
                forever = asyncio.create_task(pair.here.request("wait", {}, timeout_s=math.inf))
                assert (await pair.here.request("echo", {"n": 1}, timeout_s=0.03)).fields == {"n": 1}
                await asyncio.gather(*(ask(timeout_s) for timeout_s in (0.12, 0.04, 0.08, 0.0, -1.0)))
                assert not forever.done()
                pair.bob.release.set()
                await forever
                pair.bob.release.clear()

    async def test_more_time_than_the_wire_can_tell_is_no_deadline(self) -> None:
        async with self.pair() as pair:
            for timeout_s in (2 * MAX_TIMEOUT_S, math.inf):
                assert (await pair.here.request("remaining", {}, timeout_s=timeout_s)).fields == {"s": None}

    async def test_errors_keep_their_class(self) -> None:
        async with self.pair() as pair:
            with pytest.raises(Declined, match="no room here"):
                await pair.here.request("decline", {}, timeout_s=5)
            with pytest.raises(SwarmError, match="does not know 'nonsense'"):
                await pair.here.request("nonsense", {}, timeout_s=5)

    async def test_a_bug_is_logged_and_not_told(self, caplog: pytest.LogCaptureFixture) -> None:
        async with self.pair() as pair:
            with caplog.at_level(logging.ERROR), pytest.raises(SwarmError) as told:
                await pair.here.request("bug", {}, timeout_s=5)
            assert type(told.value) is SwarmError
            assert "secret" not in str(told.value)
            assert "ZeroDivisionError: a secret" in caplog.text

    async def test_a_refused_body_leaves_the_channel_alive(self) -> None:
        async with self.pair() as pair:
            for nbytes in (10, 3_000_000):
                with pytest.raises(Declined, match="thank you"):
                    await pair.here.request("echo", {"refuse": True}, bytes(nbytes), timeout_s=10)
                with pytest.raises(FrameTooLarge, match="has no body"):
                    await pair.here.request("wait", {}, bytes(nbytes), timeout_s=10)
            assert pair.bob.admitted == []
            assert (await pair.here.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}

    async def test_a_reply_longer_than_agreed_is_not_taken(self) -> None:
        async with self.pair() as pair:
            for nbytes in (100, 1_000_000):
                with pytest.raises(FrameTooLarge, match="were agreed to"):
                    await pair.here.request("echo", {}, bytes(nbytes), timeout_s=5, reply_bytes=nbytes - 1)
            assert (await pair.here.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}

    async def test_what_cannot_be_sent_fails_here(self) -> None:
        async with self.pair() as pair:
            with pytest.raises(FrameTooLarge):
                await pair.here.request("echo", {"text": "x" * 70_000}, timeout_s=5)
            assert MAX_BODY_BYTES >= BIG
            assert not pair.here.is_closed

    async def test_overloaded_beyond_the_limit(self) -> None:
        async with self.pair(Limits(serving=4, asking=8)) as pair:
            waiting = [asyncio.create_task(pair.here.request("wait", {}, timeout_s=60)) for _ in range(4)]
            await pair.bob.started.wait()
            while pair.bob.running < 4:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await pair.here.request("wait", {}, timeout_s=5)
            pair.bob.release.set()
            await asyncio.gather(*waiting)
            assert (await pair.here.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}

    async def test_too_much_asked_at_once(self) -> None:
        async with self.pair(Limits(asking=3)) as pair:
            waiting = [asyncio.create_task(pair.here.request("wait", {}, timeout_s=60)) for _ in range(3)]
            await pair.bob.started.wait()
            with pytest.raises(Overloaded, match="waiting already"):
                await pair.here.request("echo", {}, timeout_s=5)
            pair.bob.release.set()
            await asyncio.gather(*waiting)

    async def test_bodies_in_flight_are_bounded_for_all_channels_of_a_peer(self) -> None:
        transport, alice, bob = self.transport(Limits(inbound_bytes=100_000)), Router(), Deed()
        held, arrived = list[asyncio.Task[Reply]](), list[Channel]()

        async def hold(_: Channel, call: Call) -> Reply:
            await bob.release.wait()
            return Reply()

        bob.router.add("hold", hold, lambda *_: None)
        async with self.listening(transport, bob.router, arrived.append) as listener:
            address = listener.addresses[0]
            insider = [await transport.dial(address, hello(ALICE), alice, timeout_s=5) for _ in range(3)]
            other = await transport.dial(address, hello(PeerId("c" * 32)), alice, timeout_s=5)
            for channel in (*insider[:2], other, other):
                held.append(asyncio.create_task(channel.request("hold", {}, bytes(45_000), timeout_s=30)))
            for channel in (*insider, other):
                await channel.request("echo", {}, timeout_s=5)
            for channel in (*insider, other):
                with pytest.raises(Overloaded, match="holds 90000 bytes of your calls"):
                    await channel.request("echo", {}, bytes(20_000), timeout_s=5)
            await insider[0].aclose()  # what it held is given back
            with pytest.raises(PeerLost):
                await held[0]
            while len([channel for channel in arrived if not channel.is_closed]) > 3:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            await insider[2].request("echo", {}, bytes(20_000), timeout_s=5, reply_bytes=20_000)
            bob.release.set()
            await asyncio.gather(*held[1:])
            for channel in (*insider, other, *arrived):
                await channel.aclose()

    async def test_no_memory_left_holds_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing_left(*_: Any) -> None:
            raise MemoryError

        async with self.pair(Limits(inbound_bytes=200_000)) as pair:
            monkeypatch.setattr("swarm.wire.np.empty", nothing_left)
            for _ in range(5):
                with pytest.raises(Overloaded, match="No memory is left"):
                    await pair.here.request("echo", {}, bytes(150_000), timeout_s=5)
            monkeypatch.undo()
            await pair.here.request("echo", {}, bytes(150_000), timeout_s=5, reply_bytes=150_000)

    async def test_a_reply_is_agreed_to_before_it_gets_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[int] = []
        empty = np.empty
        async with self.pair() as pair:

            def counted(nbytes: int, dtype: type) -> Any:
                given.append(nbytes)
                return empty(nbytes, dtype)

            monkeypatch.setattr("swarm.wire.np.empty", counted)
            with pytest.raises(FrameTooLarge):
                await pair.here.request("echo", {}, bytes(70_000), timeout_s=5, reply_bytes=69_999)
            assert given == [70_000]  # there, and not here
            for number in (0, 1, 99):  # replies that answer nothing any more, or never did
                pair.there._send(Frame(Kind.REPLY, number, "", {}, bytes(80_000)))
            await pair.here.request("echo", {}, timeout_s=5)
            assert given == [70_000]

    async def test_bodies_in_flight_are_bounded(self) -> None:
        async with self.pair(Limits(inbound_bytes=100_000)) as pair:
            with pytest.raises(Overloaded):
                await pair.here.request("echo", {}, bytes(100_001), timeout_s=5)
            for _ in range(5):
                await pair.here.request("later", {"turns": 1}, bytes(90_000), timeout_s=5, reply_bytes=90_000)
                await pair.here.request("echo", {}, bytes(90_000), timeout_s=5, reply_bytes=90_000)

    # Endings.

    @pytest.mark.parametrize("ending", ["aclose", "abort"])
    @pytest.mark.parametrize("side", ["here", "there"])
    async def test_closing_ends_pending_requests(self, ending: str, side: str) -> None:
        async with self.pair() as pair:
            ended: list[SwarmError | None] = []
            pair.here.on_close.append(lambda _, error: ended.append(error))
            asking = asyncio.create_task(pair.here.request("wait", {}, timeout_s=60))
            await pair.bob.started.wait()
            closing = getattr(getattr(pair, side), ending)()
            if closing is not None:
                await closing
            with pytest.raises(PeerLost, match=r"'wait' was not answered.*name-b") as lost:
                await asking
            assert "\n" not in str(lost.value)
            await asyncio.wait_for(asyncio.gather(pair.here.wait_closed(), pair.there.wait_closed()), 5)
            assert pair.bob.running == 0
            assert len(ended) == 1
            assert (ended[0] is None) == (side == "here")
            with pytest.raises(PeerLost):
                await pair.here.request("echo", {}, timeout_s=5)
            with pytest.raises(PeerLost):
                await pair.here.notify("tell", {}, timeout_s=5)
            await pair.here.aclose()
            pair.here.abort()
            assert len(ended) == 1

    async def test_a_handler_may_close_its_own_channel(self) -> None:
        async with self.pair() as pair:

            async def leave(channel: Channel, call: Call) -> Reply:
                await channel.aclose()
                return Reply()

            pair.bob.router.add("leave", leave)
            with pytest.raises(PeerLost):
                await pair.here.request("leave", {}, timeout_s=5)
            await asyncio.wait_for(pair.there.wait_closed(), 5)

    async def test_a_silent_peer_is_noticed(self) -> None:
        async with self.pair(Limits(keepalive_s=0.02, silence_s=0.1, rest_s=0.2)) as pair:
            ended: asyncio.Future[SwarmError | None] = asyncio.get_running_loop().create_future()
            pair.here.on_close.append(lambda _, error: ended.set_result(error))
            pair.there.outlet = lambda buffers: None
            error = await asyncio.wait_for(ended, 5)
            assert isinstance(error, PeerLost)
            assert "name-b" in str(error)
            assert "said nothing" in str(error)

    async def test_round_trip_and_clock_are_known(self) -> None:
        async with self.pair(Limits(keepalive_s=0.01)) as pair:
            while pair.here.rtt_s is None or pair.there.rtt_s is None:
                await asyncio.sleep(0.001)
            assert 0 < pair.here.rtt_s < 1
            assert abs(pair.here.clock_offset_s) <= pair.here.rtt_s

    async def test_whoever_does_not_read_holds_senders_up(self) -> None:
        async with self.pair(Limits(high_water_bytes=1024)) as pair:
            pair.here.pause_writing()
            with pytest.raises(DeadlineExceeded, match="did not take in 'tell'"):
                await pair.here.notify("tell", {"n": 1}, timeout_s=0.02)
            with pytest.raises(DeadlineExceeded):
                await pair.here.request("echo", {}, timeout_s=0.02)
            telling = [asyncio.create_task(pair.here.notify("tell", {"n": n}, timeout_s=5)) for n in range(3)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in telling)
            pair.here.resume_writing()
            await asyncio.gather(*telling)

    async def test_whoever_asks_and_never_reads_is_cut_off(self) -> None:
        async with self.pair(Limits(serving=1, unread=20)) as pair:
            pair.there.pause_writing()
            asking = [asyncio.create_task(pair.here.request("echo", {}, timeout_s=5)) for _ in range(60)]
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {PeerLost, Overloaded}
            assert pair.there.is_closed

    # Getting acquainted.

    async def test_two_versions(self) -> None:
        transport, service = self.transport(Limits()), Router()
        async with self.listening(transport, service, nobody) as listener:
            with pytest.raises(VersionMismatch, match="install the same version"):
                await transport.dial(listener.addresses[0], hello(ALICE, protocol=PROTOCOL + 1), service, timeout_s=5)

    async def test_nobody_dials_itself(self) -> None:
        transport, service = self.transport(Limits()), Router()
        async with self.listening(transport, service, nobody) as listener:
            with pytest.raises(PeerUnreachable, match="itself"):
                await transport.dial(listener.addresses[0], hello(BOB), service, timeout_s=5)

    async def test_a_process_that_hears_itself_is_no_twin(self) -> None:
        met: list[Hello] = []
        transport, service = self.transport(Limits(), lambda twin, _: met.append(twin)), Router()
        for start in (0, 7):
            async with self.listening(transport, service, nobody, hello(BOB, start=7)) as listener:
                with pytest.raises(PeerUnreachable, match="itself"):
                    await transport.dial(listener.addresses[0], hello(BOB, start=start), service, timeout_s=5)
        assert met == []

    async def test_two_devices_with_one_key(self) -> None:
        met: list[tuple[Hello, Address | None]] = []
        transport, service = self.transport(Limits(), lambda *twin: met.append(twin)), Router()
        one, other = hello(BOB, name="attic", start=7), hello(BOB, name="cellar", start=8)
        async with self.listening(transport, service, nobody, one) as listener:
            with pytest.raises(TwinIdentity, match=r"'cellar' here and 'attic'.*join --new-identity"):
                await transport.dial(listener.addresses[0], other, service, timeout_s=5)
            assert sorted(twin.name for twin, _ in met) == ["attic", "cellar"]
            assert {address for _, address in met} == {None} or listener.addresses[0] in [where for _, where in met]

    async def test_nobody_there(self) -> None:
        transport, service = self.transport(Limits()), Router()
        async with self.listening(transport, service, nobody) as listener:
            gone = listener.addresses[0]
        with pytest.raises(PeerUnreachable, match=f"Nothing listens at {gone}"):
            await transport.dial(gone, hello(ALICE), service, timeout_s=5)

    async def test_an_address_in_use(self) -> None:
        transport, service = self.transport(Limits()), Router()
        async with self.listening(transport, service, nobody) as listener:
            with pytest.raises(AddressInUse, match=str(listener.addresses[0].port)):
                await transport.listen(listener.addresses, hello(BOB), service, nobody)
            await listener.aclose()
            again = await transport.listen(listener.addresses, hello(BOB), service, nobody)
            await again.aclose()

    async def test_one_port_on_several_addresses(self) -> None:
        transport, service = self.transport(Limits()), Router()
        listener = await transport.listen([ANYWHERE, Address("127.0.0.2", 0)], hello(BOB), service, nobody)
        try:
            first, second = listener.addresses
            assert first.port == second.port > 0
            assert (first.host, second.host) == ("127.0.0.1", "127.0.0.2")
        finally:
            await listener.aclose()
