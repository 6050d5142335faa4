"""The exchange that a code carries, without sockets: who gets in, who does not, and what nonsense does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadInput, DoorClosed, FrameTooLarge, MalformedFrame, SwarmError, VersionMismatch, WrongCode
from swarm.pairing import (
    ALPHABET,
    ATTEMPTS,
    LETTERS,
    MAX_MESSAGE_BYTES,
    OPEN_S,
    Admission,
    Answer,
    Ask,
    Code,
    Exchange,
    Gift,
    Joining,
    Welcome,
    _pack,
)
from swarm.secret import Secret
from swarm.types import Address

SECRET = Secret.new()
PLACES = (Address("192.168.1.20", 4747),)
CERTIFICATE, OTHER = b"c" * 32, b"o" * 32
RIGHT, WRONG = Code("K7QM4XBT"), Code("K7QM4XBW")
fast = settings(deadline=None, max_examples=200)


def door(now: float = 0.0) -> Admission:
    return Admission(RIGHT, Gift(SECRET.raw(), PLACES), CERTIFICATE, now)


def joining(code: Code = RIGHT, certificate: bytes = CERTIFICATE) -> Joining:
    return Joining(code, certificate, "attic")


def meet(admission: Admission, guest: Joining, now: float = 1.0) -> Exchange:
    """Carry the messages to and fro until the guest is in; raises what the guest hears."""
    host = Exchange(admission)
    say = guest.begin()
    while guest.gift is None:
        say = guest.received(host.received(say, now))
    return host


# Who gets in


def test_whoever_knows_the_code_gets_the_secret() -> None:
    admission, guest = door(), joining()
    host = meet(admission, guest)
    assert guest.gift is not None
    assert guest.gift.secret == SECRET.raw()
    assert guest.gift.places == PLACES
    assert admission.guest == "attic"
    assert host.was_let_in
    assert host.is_over


def test_a_wrong_code_is_told_how_often_it_may_be_tried() -> None:
    admission = door()
    for left in (2, 1, 0):
        with pytest.raises(WrongCode, match=f"{left} more" if left else "no more"):
            meet(admission, joining(WRONG))
    assert admission.guest is None


def test_the_fourth_guess_gets_nothing_even_if_it_is_right() -> None:
    admission = door()
    for _ in range(ATTEMPTS):
        with pytest.raises(WrongCode):
            meet(admission, joining(WRONG))
    host, guest = Exchange(admission), joining()
    answer = host.received(guest.begin(), 1.0)
    assert host.is_over
    with pytest.raises(DoorClosed, match="three wrong codes"):
        guest.received(answer)


def test_guesses_side_by_side_do_not_help() -> None:
    """What counts is that an exchange was begun, not that it came to an end."""
    admission = door()
    begun = [(Exchange(admission), joining(WRONG)) for _ in range(ATTEMPTS)]
    for host, guest in begun:
        host.received(guest.begin(), 1.0)
    with pytest.raises(DoorClosed):
        meet(admission, joining())


def test_after_two_minutes_the_right_code_comes_too_late() -> None:
    with pytest.raises(DoorClosed, match="two minutes"):
        meet(door(), joining(), now=OPEN_S)
    meet(door(), joining(), now=OPEN_S - 0.01)


def test_the_time_may_run_out_within_an_exchange() -> None:
    admission, guest = door(), joining()
    host = Exchange(admission)
    confirm = guest.received(host.received(guest.begin(), OPEN_S - 1))
    with pytest.raises(DoorClosed):
        guest.received(host.received(confirm, OPEN_S))
    assert admission.guest is None


def test_one_device_comes_in_and_the_door_closes_behind_it() -> None:
    admission, late = door(), joining()
    host = Exchange(admission)
    confirm = late.received(host.received(late.begin(), 1.0))
    meet(admission, joining())
    with pytest.raises(DoorClosed, match="another device"):
        late.received(host.received(confirm, 1.0))
    with pytest.raises(DoorClosed, match="another device"):
        meet(admission, joining())


def test_a_swapped_certificate_makes_the_right_code_wrong() -> None:
    with pytest.raises(WrongCode, match="between the two"):
        meet(door(), joining(certificate=OTHER))


def test_the_inviter_shows_nothing_before_the_joiner_has() -> None:
    """Its answer is a share alone: as long, and as random, for a right guess as for a wrong one."""
    answers = [Exchange(door()).received(joining(code).begin(), 1.0) for code in (RIGHT, RIGHT, WRONG)]
    assert len({len(answer) for answer in answers}) == 1
    assert len(set(answers)) == 3


def test_an_impostor_who_does_not_know_the_code_gives_no_secret() -> None:
    """Whoever answers in the inviter's place has one try; a made-up welcome is no welcome."""
    guest, impostor = joining(), Admission(WRONG, Gift(Secret.new().raw()), CERTIFICATE, 0.0)
    host = Exchange(impostor)
    confirm = guest.received(host.received(guest.begin(), 1.0))
    assert host._keys is not None
    sealed = host._keys.seal(host._keys.inviter_seal, b"x")
    with pytest.raises(MalformedFrame, match="does not know the code"):
        guest.received(_pack(Welcome(host._keys.inviter_mac, sealed)))
    assert confirm
    assert guest.gift is None


def test_another_version_is_told_and_costs_no_attempt() -> None:
    admission = door()
    host = Exchange(admission)
    answer = host.received(_pack(Ask(999, b"A" * 33)), 1.0)
    with pytest.raises(VersionMismatch, match="same version"):
        joining().received(answer)
    assert admission.left == ATTEMPTS


def test_a_name_that_drives_a_terminal_is_made_plain() -> None:
    admission = door()
    meet(admission, Joining(RIGHT, CERTIFICATE, "at\x1b[2Jtic\n"))
    assert admission.guest is not None
    assert admission.guest.isprintable()
    meet(other := door(), Joining(RIGHT, CERTIFICATE, "ü" * 10_000))
    assert other.guest is not None
    assert len(other.guest) <= 128


# Codes


@given(st.text(ALPHABET, min_size=LETTERS, max_size=LETTERS))
def test_a_code_is_read_as_people_type_it(letters: str) -> None:
    code = Code(letters)
    for typed in (str(code), str(code).lower(), " ".join(letters), f"  {code}\n", f"{letters[:3]}_{letters[3:]}"):
        assert Code.parse(typed) == code
    looks_like = letters.replace("0", "o").replace("1", "l").replace("V", "u")
    assert Code.parse(looks_like) == code
    assert letters not in repr(code)


@given(st.text(max_size=20))
def test_what_is_no_code_is_refused(text: str) -> None:
    if len("".join(text.upper().split())) < LETTERS or any(letter in text for letter in "?*ä$"):
        with pytest.raises(BadInput, match="swarm invite"):
            Code.parse(text)


def test_codes_are_drawn_from_the_whole_alphabet() -> None:
    assert {letter for _ in range(200) for letter in Code.new().letters} == set(ALPHABET)


# Nonsense


def recorded() -> tuple[list[bytes], list[bytes]]:
    """All messages of one good exchange: what the inviter gets, what the joiner gets."""
    host, guest = Exchange(door()), joining()
    to_host, to_guest = [guest.begin()], []
    while guest.gift is None:
        to_guest.append(host.received(to_host[-1], 1.0))
        to_host.append(guest.received(to_guest[-1]))
    return [message for message in to_host if message], to_guest


TO_HOST, TO_GUEST = recorded()


@st.composite
def mutated(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A message with bytes changed, cut out or put in; or bytes that are none."""
    data = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if data:
                data[place] = draw(st.integers(0, 255))
            case 1:
                del data[place : place + draw(st.integers(1, 8))]
            case 2:
                data[place:place] = draw(st.binary(max_size=8))
            case _:
                data = bytearray(draw(st.binary(max_size=64)))
    return bytes(data)


def in_pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@fast
@given(st.lists(mutated(TO_HOST), max_size=4), st.lists(st.integers(1, 50), max_size=4))
def test_nothing_that_is_sent_breaks_the_inviter(messages: list[bytes], sizes: list[int]) -> None:
    admission = door()
    host = Exchange(admission)
    try:
        for message in messages:
            for piece in in_pieces(message, sizes):
                host.received(piece, 1.0)
                if host.is_over:
                    return
    except SwarmError:
        assert host.is_over
    finally:
        assert len(host._reader._buffer) <= 2 * MAX_MESSAGE_BYTES
        assert admission.guest is None
        assert admission.left >= 0


@fast
@given(st.lists(mutated(TO_GUEST), max_size=4))
def test_nothing_that_is_answered_breaks_the_joiner(messages: list[bytes]) -> None:
    guest = joining()
    guest.begin()
    try:
        for message in messages:
            guest.received(message)
    except SwarmError:
        pass
    assert guest.gift is None
    assert len(guest._reader._buffer) <= 2 * MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "share",
    [bytes(33), b"B" + bytes(32), b"B\x01" + bytes(31), b"B" + b"\xff" * 32, b"A" + b"\x02" * 32, b"S" + b"x" * 32],
)
def test_a_share_that_is_no_point_is_malformed_and_counts(share: bytes) -> None:
    admission = door()
    host = Exchange(admission)
    with pytest.raises(MalformedFrame):
        host.received(_pack(Ask(1, share)), 1.0)
    assert admission.left == ATTEMPTS - 1


def test_a_reflected_share_is_refused() -> None:
    guest = joining()
    share = guest._half.share
    with pytest.raises(MalformedFrame):
        guest.received(_pack(Answer(share)))


def test_a_long_message_is_refused_before_it_is_there() -> None:
    with pytest.raises(FrameTooLarge):
        Exchange(door()).received(b"\xff\xff", 1.0)
    host = Exchange(door())
    with pytest.raises(FrameTooLarge):
        host.received((MAX_MESSAGE_BYTES).to_bytes(2, "big") + b"x" * 10**6, 1.0)
    with pytest.raises(MalformedFrame, match="out of turn"):
        Exchange(door()).received(TO_HOST[0] + b"\0", 1.0)


def test_the_order_cannot_be_changed() -> None:
    with pytest.raises(MalformedFrame, match="order"):
        Exchange(door()).received(TO_HOST[1], 1.0)
    twice = Exchange(door())
    twice.received(TO_HOST[0], 1.0)
    with pytest.raises(MalformedFrame, match="order"):
        twice.received(TO_HOST[0], 1.0)
    with pytest.raises(MalformedFrame, match="order"):
        joining().received(TO_GUEST[1])


def test_a_recorded_exchange_opens_nothing() -> None:
    admission = door()
    host = Exchange(admission)
    host.received(TO_HOST[0], 1.0)
    answer = host.received(TO_HOST[1], 1.0)
    assert not host.was_let_in
    assert admission.guest is None
    assert len(answer) < 30
