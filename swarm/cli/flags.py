"""Flags that several subcommands share, and how a flag is made: each can also be set by `SWARM_…`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from swarm.cli.kinds import ADDRESSES, HTTP_DEFAULT, NAMES, PATHS, Fractions, HttpAddress, Seconds

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Output:
    """How to speak to whoever called. `main` begins with a guess, for errors in the flags themselves."""

    json: bool = False
    debug: bool = False

    def use_debug(self, debug: bool) -> None:
        self.debug = debug
        logging.getLogger().setLevel(logging.DEBUG if debug else logging.ERROR)


def flag(name: str, text: str, **more: Any) -> Callable[[Command], Command]:
    variable = "SWARM_" + name.strip("-").upper().replace("-", "_")
    return click.option(name, help=text, envvar=variable, show_default="default" in more, **more)


def _use_json(context: click.Context, _: click.Parameter, value: bool) -> bool:
    context.ensure_object(Output).json = value
    return value


def _use_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.ensure_object(Output).use_debug(value)


def _together(*flags: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return decorate


NETWORK = _together(
    flag("--interface", "Local IP address to use; repeat for more.", metavar="IP", multiple=True, type=ADDRESSES),
    flag(
        "--peer",
        "Where a peer is, if peers are not found; repeat for more.",
        metavar="HOST:PORT",
        multiple=True,
        type=ADDRESSES,
    ),
    flag("--no-mdns", "Neither announce nor look for peers by multicast (mDNS).", is_flag=True),
    flag("--forget", "Neither read nor write last-known peers; take a key for this run alone.", is_flag=True),
)
TRUST = _together(
    flag("--secret-file", "File that holds the swarm's secret, for fleets.", metavar="FILE"),
    flag("--open", "No encryption, no secret: for a bench network only.", is_flag=True),
)
COMPUTE = _together(
    flag("--threads", "CPU threads for the model.", type=click.IntRange(min=1)),
    flag(
        "--models",
        "Python file that registers models of your own; repeat for more.",
        metavar="FILE",
        multiple=True,
        type=PATHS,
    ),
)
HTTP = _together(
    flag(
        "--http",
        f"Answer HTTP clients: the Open Inference Protocol v2; alone it is {HTTP_DEFAULT}.",
        metavar="[HOST:PORT]",
        type=HttpAddress(),
        is_flag=False,
        flag_value=HTTP_DEFAULT,
    ),
    flag("--http-token", "What HTTP clients must send; better a file, or SWARM_HTTP_TOKEN.", metavar="TOKEN"),
    flag("--http-token-file", "File that holds that token.", metavar="FILE"),
    flag(
        "--http-name",
        "Another name that HTTP clients reach this device under; repeat for more.",
        metavar="NAME",
        multiple=True,
        type=NAMES,
    ),
    flag(
        "--serve",
        "Model to load at once for HTTP clients; repeat for more.",
        metavar="MODEL",
        multiple=True,
        type=NAMES,
    ),
)
BATCHING = _together(
    flag(
        "--batching",
        "How requests that were cut at different places share batches: joining, slices or tails.",
        type=click.Choice(["joining", "slices", "tails"]),
        default="joining",
    ),
    flag("--max-batch", "Most samples in one batch.", type=click.IntRange(1, 1024), default=64),
    flag("--max-waiting", "Requests that may wait; others are refused.", type=click.IntRange(1, 65536), default=256),
    flag("--max-wait", "Longest that a request may have to wait, in seconds.", type=Seconds(), default=30.0),
    flag("--max-delay", "Seconds that an idle device waits for company for a request.", type=Seconds(), default=0.0),
)
GROUPS = _together(
    flag(
        "--replicate",
        "With partial: the fraction that this device holds besides its share, of all blocks or one for each.",
        metavar="R[,R...]",
        type=Fractions(),
    ),
    flag(
        "--on-loss",
        "A member of a group is lost: retry asks again, exactly; degrade goes on without it, and says so.",
        type=click.Choice(["retry", "degrade"]),
        default="retry",
    ),
)
BATCHING_FLAGS = ("batching", "max_batch", "max_waiting", "max_wait", "max_delay")
OUTPUT = _together(
    flag("--json", "Print JSON for programs.", is_flag=True, is_eager=True, callback=_use_json),
    flag("--debug", "Show logs and tracebacks.", is_flag=True, is_eager=True, callback=_use_debug, expose_value=False),
)
