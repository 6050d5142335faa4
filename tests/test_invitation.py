"""Pairing over real sockets: one device comes in, and whoever stands between or knocks too often does not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from swarm import invitation as inviting
from swarm.accepting import _any_certificate, accept
from swarm.errors import DoorClosed, NotInvited, PeerLost, PeerUnreachable, SwarmError, WrongCode
from swarm.invitation import GUESTS, Invitation
from swarm.mdns import look
from swarm.pairing import OPEN_S, Admission, Code, Exchange, Gift, Joining
from swarm.secret import Secret
from swarm.types import Address

SECRET = Secret.new()
LOOPBACK = ["127.0.0.1"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def invited(**options: object) -> AsyncIterator[tuple[Invitation, Address]]:
    invitation = Invitation(SECRET, interfaces=LOOPBACK, port=0, **({"mdns": False} | options))  # type: ignore[arg-type]
    async with invitation:
        yield invitation, invitation.addresses[0]


async def knock(code: Code, place: Address) -> Secret:
    gift, _ = await accept(code, "attic", [place], mdns=False)
    return Secret(gift.secret)


def wrong(code: Code) -> Code:
    return Code(code.letters[:-1] + ("0" if code.letters[-1] != "0" else "1"))


async def test_the_device_that_knows_the_code_comes_in() -> None:
    async with invited(places=[Address("192.168.1.20", 4747)]) as (invitation, place):
        gift, where = await accept(invitation.code, "attic", [place], mdns=False)
        assert Secret(gift.secret) == SECRET
        assert gift.places == (Address("192.168.1.20", 4747),)
        assert where == place
        guest = await invitation.guest()
        assert (guest.name, guest.host) == ("attic", "127.0.0.1")
        with pytest.raises(DoorClosed, match="another device"):
            await knock(invitation.code, place)


async def test_it_is_found_by_the_first_letters_of_its_code() -> None:
    async with invited(mdns=True) as (invitation, place), invited(mdns=True) as (other, _):
        gift, where = await accept(invitation.code, "attic", interfaces=LOOPBACK)
        assert Secret(gift.secret) == SECRET
        assert where == place
        assert other.left == 3, "nobody guessed at the other one"
        nobody = Code(("00" if invitation.code.door != "00" and other.code.door != "00" else "ZZ") + "000000")
        with pytest.raises(NotInvited, match="typed right"):
            await accept(nobody, "attic", interfaces=LOOPBACK)


async def test_the_announcement_names_nothing() -> None:
    async with invited(mdns=True) as (invitation, place):
        door = invitation.code.door
        records = await look(inviting.SERVICE, LOOPBACK, 5, enough=lambda record: record.text("d") == door)
    mine = next(record for record in records if record.text("d") == door and record.port == place.port)
    assert dict(mine.properties) == {b"txtvers": b"1", b"d": door.encode()}
    assert len(mine.name.split(".")[0]) == 16


async def test_three_wrong_codes_close_the_door() -> None:
    told: list[tuple[int, str]] = []
    async with invited(on_attempt=lambda left, host: told.append((left, host))) as (invitation, place):
        for _ in range(3):
            with pytest.raises(WrongCode):
                await knock(wrong(invitation.code), place)
        with pytest.raises(DoorClosed, match="three wrong codes"):
            await knock(invitation.code, place)
        with pytest.raises(DoorClosed, match="Three wrong codes"):
            await invitation.guest()
    assert told == [(2, "127.0.0.1"), (1, "127.0.0.1"), (0, "127.0.0.1")]


async def test_many_guesses_at_once_are_three_guesses() -> None:
    async with invited() as (invitation, place):
        guesses = [knock(wrong(invitation.code), place) for _ in range(4)]
        first = await asyncio.gather(*guesses, return_exceptions=True)
        rest = await asyncio.gather(*(knock(wrong(invitation.code), place) for _ in range(4)), return_exceptions=True)
        heard = [type(error) for error in (*first, *rest)]
        assert heard.count(WrongCode) == 3
        assert set(heard) <= {WrongCode, DoorClosed, PeerUnreachable}


async def test_the_door_closes_after_two_minutes() -> None:
    clock = Clock()
    async with invited(clock=clock) as (invitation, place):
        clock.now += OPEN_S
        with pytest.raises(DoorClosed, match="two minutes"):
            await knock(invitation.code, place)
        with pytest.raises(DoorClosed, match="Nobody came in"):
            await invitation.guest()


async def test_somebody_between_the_two_gets_nothing_and_is_noticed() -> None:
    """A real man in the middle: his own certificate to the joiner, his own connection to the inviter."""
    async with invited() as (invitation, place), Middle(place) as middle:
        with pytest.raises(WrongCode, match="between the two"):
            await knock(invitation.code, middle.address)
        assert middle.heard[0].startswith(b"\0")
        assert SECRET.raw() not in b"".join(middle.heard)
        assert invitation.left == 2
        assert await knock(invitation.code, place) == SECRET


async def test_a_joiner_lets_nobody_guess_twice() -> None:
    """Whoever announces an invitation at many addresses, and hangs up once it can check its guess, has one guess."""
    guesses = 0

    async def guess(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal guesses
        exchange = Exchange(Admission(Code("00000000"), Gift(bytes(32)), own, 0.0))
        writer.write(await asyncio.to_thread(exchange.received, await reader.read(4096), 0.0))
        await reader.read(4096)
        guesses += 1
        writer.transport.abort()

    context, own = await asyncio.to_thread(inviting._own_certificate)
    servers = [await asyncio.start_server(guess, "127.0.0.1", 0, ssl=context) for _ in range(3)]
    places = [Address(*server.sockets[0].getsockname()[:2]) for server in servers]
    with pytest.raises(PeerLost, match="used up"):
        await accept(Code.new(), "attic", places, mdns=False)
    for server in servers:
        server.close()
    assert guesses == 1


async def test_a_guest_that_does_not_hang_up_is_told_of_all_the_same(quick: None) -> None:
    """It has the secret: two minutes being over at that moment must not hide it."""
    clock = Clock()
    async with invited(clock=clock) as (invitation, place):
        reader, writer = await asyncio.open_connection(
            place.host, place.port, ssl=_any_certificate(), server_hostname=""
        )
        seen = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        joining = await asyncio.to_thread(Joining, invitation.code, sha256(seen).digest(), "attic")
        say = joining.begin()
        while joining.gift is None:
            writer.write(say)
            say = await asyncio.to_thread(joining.received, await reader.read(4096))
        clock.now += OPEN_S
        assert (await invitation.guest()).name == "attic"
        writer.transport.abort()


class Middle:
    """Terminates TLS on both sides and passes everything on."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self.heard: list[bytes] = []

    async def __aenter__(self) -> Middle:
        context, _ = await asyncio.to_thread(inviting._own_certificate)
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=context)
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(
            self._to.host, self._to.port, ssl=_any_certificate(), server_hostname=""
        )

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(4096):
                    self.heard.append(data)
                    sink.write(data)
            sink.transport.abort()

        await asyncio.gather(pump(reader, back), pump(there, writer))


# Those who only disturb


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inviting, "MESSAGE_S", 0.3)


@asynccontextmanager
async def stranger(place: Address, context: ssl.SSLContext | None) -> AsyncIterator[asyncio.StreamWriter]:
    _, writer = await asyncio.open_connection(
        place.host, place.port, ssl=context, server_hostname=None if context is None else ""
    )
    try:
        yield writer
    finally:
        writer.transport.abort()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("encrypted", [False, True])
async def test_whoever_says_nothing_is_sent_away_and_costs_no_attempt(encrypted: bool) -> None:
    async with invited() as (invitation, place):
        context = _any_certificate() if encrypted else None
        async with stranger(place, context), stranger(place, context):
            await asyncio.sleep(0.8)
            assert invitation._hosts == {}
            assert await knock(invitation.code, place) == SECRET


@pytest.mark.usefixtures("quick")
async def test_slow_bytes_run_out_of_time() -> None:
    async with invited() as (invitation, place), stranger(place, _any_certificate()) as slow:
        for _ in range(8):
            slow.write(b"\0")
            await asyncio.sleep(0.1)
        assert invitation._hosts == {}
        assert invitation.left == 3


async def test_a_crowd_of_idle_sockets_is_bounded_and_the_guest_comes_in_after_it() -> None:
    async with invited() as (invitation, place), contextlib.AsyncExitStack() as crowd:
        for _ in range(100):
            await crowd.enter_async_context(stranger(place, None))
        await asyncio.sleep(0.1)
        assert sum(invitation._hosts.values()) <= GUESTS
        await crowd.aclose()
        await asyncio.sleep(0.1)
        assert await knock(invitation.code, place) == SECRET


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\0\1\xc1", b"\0\0"])
async def test_nonsense_is_hung_up_on(nonsense: bytes) -> None:
    async with invited() as (invitation, place):
        for context in (None, _any_certificate()):
            async with stranger(place, context) as writer:
                writer.write(nonsense)
                await asyncio.sleep(0.1)
        assert await knock(invitation.code, place) == SECRET


async def test_where_nobody_invites() -> None:
    async with invited() as (_, place):
        pass
    with pytest.raises(PeerUnreachable, match="swarm invite"):
        await knock(Code.new(), place)
    with pytest.raises(NotInvited, match="--peer"):
        await accept(Code.new(), "attic", mdns=False)


async def test_a_swarms_own_port_is_no_invitation() -> None:
    from swarm.trust import ephemeral

    mine = await asyncio.to_thread(ephemeral, SECRET)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=mine.server)
    async with server:
        with pytest.raises(PeerUnreachable):
            await knock(Code.new(), Address(*server.sockets[0].getsockname()[:2]))


async def test_leaving_early_is_clean() -> None:
    async with invited() as (invitation, place):
        waiting = asyncio.create_task(invitation.guest())
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(SwarmError):
        await knock(invitation.code, place)
