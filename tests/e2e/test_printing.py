"""What comes from other devices and from files never drives the terminal, and errors are sentences."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from swarm.cli import _alone, invite, show
from swarm.errors import MAX_SENTENCE, BadInput, MalformedFrame, NoPeers, from_code, plain
from swarm.invitation import Invitation
from swarm.schema import unpack
from swarm.transport import Hello
from swarm.types import Address
from tests.e2e.command import PICTURES, check_sentence, joined, swarm, swarm_json

NASTY = "\x1b]0;x\x07\x9b2J\n\u202egnp.\u2066\u2028\udcff"


def test_plain_text_has_nothing_that_drives_a_terminal() -> None:
    assert plain(NASTY) == "�]0;x��2J��gnp.���"
    assert plain("кухня 🍳 [/x] Élan") == "кухня 🍳 [/x] Élan"


def test_what_a_peer_says_of_an_error_is_plain_and_short() -> None:
    error = from_code("no-peers", f"{NASTY}{'x' * 10**6}")
    assert isinstance(error, NoPeers)
    assert len(str(error)) == MAX_SENTENCE
    assert str(error) == plain(str(error))


@pytest.mark.parametrize("name", ["a\nb", "a\x9bb", "a\u202eb", "a\u2028b"])
def test_a_stranger_cannot_introduce_itself_so(name: str) -> None:
    fields = {"protocol": 1, "id": "0" * 32, "name": name, "purpose": "control"}
    assert unpack(Hello, fields | {"name": "кухня [/x]"}).name == "кухня [/x]"
    with pytest.raises(MalformedFrame):
        unpack(Hello, fields)


def test_tables_show_markup_as_it_is() -> None:
    out = StringIO()
    Console(file=out, width=100).print(show.table(["[/x]", ":cat:"], [["[bold]a[/bold]", NASTY]], "title"))
    for text in ("[/x]", ":cat:", "[bold]a[/bold]", plain(NASTY)):
        assert text in out.getvalue()


def test_what_is_told_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show.tell(NASTY)
    show.say(NASTY)
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{plain(NASTY)}\n", f"swarm: {plain(NASTY)}\n")


def test_no_sentence_of_an_invitation_is_taken_for_a_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cast("Invitation", SimpleNamespace(code="K7QM-4XBT", addresses=(Address("127.0.0.1", 4748),)))
    invite._show(shown, as_json=False)
    invite._attempt(1, "127.0.0.2", as_json=False)
    captured = capsys.readouterr()
    assert "\N{REPLACEMENT CHARACTER}" not in captured.out + captured.err
    assert "\n\n    swarm join --code K7QM-4XBT\n\n" in captured.out
    assert captured.err == "127.0.0.2 tried a wrong code; 1 attempt left.\n"


def test_a_wrong_word_points_to_the_help_of_its_own_command() -> None:
    check_sentence(swarm("run", "fashion-vit"), 2, "See `swarm run --help`.")
    check_sentence(swarm("frobnicate"), 2, "See `swarm --help`.")


def test_json_never_has_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        show.print_json({"score": float("nan")})


def test_a_group_comes_down_to_what_the_user_can_mend() -> None:
    answer, bug = NoPeers("Nobody is here."), TypeError("a bug")
    assert _alone(ExceptionGroup("", [ExceptionGroup("", [answer])])) is answer
    assert _alone(ExceptionGroup("", [answer, BadInput("Nor this.")])) is answer
    mixed = ExceptionGroup("", [answer, bug])
    assert _alone(mixed) is mixed


def test_a_peer_called_like_markup_shows_with_all_that_it_holds() -> None:
    with joined("--no-mdns", name="[/x]") as peer:
        where = ("--peer", peer.address, "--no-mdns")
        done = swarm("run", "fashion-vit", PICTURES[0], *where, "--split", "6", "--on", "[/x]")
        check_sentence(done, 3, "needs 2 peers")
        ran = swarm("run", "fashion-vit", PICTURES[0], *where, "--split", "6")
        assert ran.returncode == 0, ran.stderr
        assert "[/x]" in ran.stdout
        [holds] = [p["holds"] for p in swarm_json("status", *where, "--wait", "1")["peers"] if p["name"] == "[/x]"]
        shown = swarm("status", *where, "--wait", "1")
    assert shown.returncode == 0, shown.stderr
    assert "[/x]" in shown.stdout
    for part in holds:
        assert f"[/x] holds {part}\n" in shown.stdout


def test_what_is_no_picture_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fi\x1bfo.png"
    os.mkfifo(fifo)
    done = swarm("run", "fashion-vit", PICTURES[0], str(fifo), "--no-mdns")
    check_sentence(done, 2, "fi�fo.png", "no regular file")
    check_sentence(swarm("run", "fashion-vit", "x" * 5000, "--no-mdns"), 2, "no regular file")
    check_sentence(swarm("run", "fashion-vit", PICTURES[0], "--wire", "int4", "--no-mdns"), 2, "int4", "bfloat16")
