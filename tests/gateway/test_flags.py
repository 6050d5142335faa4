"""What `--http` and its companions may be."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from swarm.cli.http import Http, asked
from swarm.cli.kinds import HttpAddress
from swarm.errors import BadInput, UsageError
from swarm.types import Address

HERE = Address("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", HERE),
        ("1", HERE),
        ("on", HERE),
        (":0", Address("127.0.0.1", 0)),
        ("8001", Address("127.0.0.1", 8001)),
        ("0.0.0.0", Address("0.0.0.0", 8000)),
        ("attic.local:80", Address("attic.local", 80)),
        ("[::1]", Address("::1", 8000)),
        ("[::1]:9", Address("::1", 9)),
    ],
)
def test_an_address_or_a_part_of_it(text: str, address: Address) -> None:
    assert HttpAddress().convert(text, None, None) == address
    assert HttpAddress().convert(address, None, None) == address


@pytest.mark.parametrize("text", ["a:b", "99999", ":x", "a:70000", "::1:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        HttpAddress().convert(text, None, None)


def test_flags_together(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" secret-of-mine \n")
    assert asked(None, "t", None, (), ()) is None
    assert asked(HERE, None, str(file), ("a",), ("m",)) == Http(HERE, "secret-of-mine", ("m",), ("a",))
    with pytest.raises(UsageError, match="--http too"):
        asked(None, None, None, (), ("m",))
    with pytest.raises(UsageError, match="one of them"):
        asked(HERE, "t", str(file), (), ())
    with pytest.raises(BadInput, match="cannot be read"):
        asked(HERE, None, str(tmp_path / "none"), (), ())
