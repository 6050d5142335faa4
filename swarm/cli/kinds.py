"""What the values of flags may be, wherever they come from: the command line, the environment or the settings file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import click

from swarm.errors import BadInput
from swarm.types import Address

HTTP_DEFAULT = "127.0.0.1:8000"
"""Where `--http` listens when nothing else is said."""
MAX_NAME = 128
MAX_SECONDS = 1e9


class Several(click.types.StringParamType):
    """Text of which one environment variable holds several, split where `separators` match."""

    def __init__(self, separators: str) -> None:
        self._separators = separators

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [text for part in re.split(self._separators, rv) if (text := part.strip())]


class Seconds(click.FloatRange):
    """A length of time: a number, neither infinite nor NaN."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        super().__init__(min=least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds) or seconds > MAX_SECONDS:
            self.fail(f"{value} is not a time in seconds.", param, ctx)
        return seconds


class Fractions(click.types.StringParamType):
    """`0.33`, or one for each block: `0.5,0.4,0.3`. Their range is for who uses them to check."""

    name = "fractions"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is not a fraction, or several with commas between.", param, ctx)


class PeerName(click.types.StringParamType):
    """What other peers accept as a name, and show on their terminals."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not 1 <= len(value) <= MAX_NAME or not value.isprintable():
            self.fail(f"a name is 1 to {MAX_NAME} printable characters, and this one is not.", param, ctx)
        return value


class HttpAddress(click.types.StringParamType):
    """`HOST:PORT`, or one of the two; what is missing is the default's, and all of it for a switch's `1` or `on`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Address):
            return value
        host, _, port = HTTP_DEFAULT.partition(":")
        if value.lower() in {"1", "true", "yes", "on"}:
            return Address(host, int(port))
        if value.isdecimal():
            value = f"{host}:{value}"
        elif value.startswith(":"):
            value = f"{host}{value}"
        elif ":" not in value or value.endswith("]"):
            value = f"{value}:{port}"
        try:
            return Address.parse(value)
        except BadInput as error:
            self.fail(str(error), param, ctx)


NAMES = ADDRESSES = Several(r"[\s,]+")
PATHS = Several(re.escape(os.pathsep))
