"""The command `swarm`: every subcommand in a file of its own, errors as sentences, exit codes by kind of error."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from swarm.errors import SwarmError, plain

if TYPE_CHECKING:
    from swarm.cli.flags import Output


def main() -> None:
    """Run the command line and exit: 0, or the error's own code."""
    from swarm.cli.app import app
    from swarm.cli.flags import Output

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: a terminal of few letters is no error
    output = Output(json=_is_asked("json"), debug=_is_asked("debug"))
    logging.basicConfig(
        level=logging.DEBUG if output.debug else logging.ERROR, format="%(asctime)s %(name)s %(message)s"
    )
    try:
        app(standalone_mode=False, obj=output)
    except SwarmError as error:
        _fail(error, output)
    except click.ClickException as error:
        _end(f"{error.format_message().rstrip('.')}. See `{_asked(error)} --help`.", 2, "usage", output)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except ExceptionGroup as group:
        _fail(_alone(group), output)
    except Exception as error:  # noqa: BLE001 - a bug: the person hears one line, --debug shows the rest
        _fail(error, output)


def _asked(error: click.ClickException) -> str:
    """The command whose words were wrong, as in `swarm run`."""
    context, words = error.ctx if isinstance(error, click.UsageError) else None, list[str]()
    while context is not None and context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent
    return " ".join(["swarm", *words])


def _is_asked(flag: str) -> bool:
    """A guess, until the flags have been read."""
    return f"--{flag}" in sys.argv or os.environ.get(f"SWARM_{flag.upper()}", "").lower() in {"1", "true", "yes", "on"}


def _alone(error: Exception) -> Exception:
    """What a group of errors comes down to: the only one in it, or the first when all are answers to the user."""
    if not isinstance(error, ExceptionGroup):
        return error
    inner = [_alone(each) for each in error.exceptions]
    return inner[0] if len(inner) == 1 or all(isinstance(each, SwarmError) for each in inner) else error


def _fail(error: Exception, output: Output) -> None:
    if isinstance(error, SwarmError):
        _end(str(error), error.exit_code, error.code, output)
    sentence = f"internal error ({type(error).__name__}: {error}); run again with --debug and report it."
    _end(sentence, 1, "bug", output)


def _end(sentence: str, exit_code: int, code: str, output: Output) -> None:
    sentence = plain(sentence)
    if output.debug:
        traceback.print_exc()
    if output.json:
        from swarm.cli.show import print_json

        print_json({"error": {"code": code, "sentence": sentence}})
    print(f"swarm: {sentence}", file=sys.stderr)
    sys.exit(exit_code)
