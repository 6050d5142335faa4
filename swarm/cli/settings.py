"""Defaults from a TOML file: any flag, by its long name, for all commands or in a table for one.

interface = ["192.168.1.20"]

[join]
name = "attic-pi"
memory = 2_000_000_000
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from swarm.errors import UsageError
from swarm.identity import config_folder

Options = dict[str, click.Option]


def config_path() -> Path:
    """`SWARM_CONFIG`, or `swarm.toml` in the configuration folder."""
    named = os.environ.get("SWARM_CONFIG")
    return Path(named) if named else config_folder() / "swarm.toml"


def defaults(commands: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """What the file sets, as click wants it: a table for each command; a group's has a table for each of its own.

    Raises `UsageError` when the file cannot be read, or sets what no flag of a command takes.
    """
    path = config_path()
    settings = _read(path)
    every = {key: option for command in _leaves(commands) for key, option in _options(command).items()}
    shared = _checked({key: value for key, value in settings.items() if key not in commands}, every, f"in {path}")
    return {name: _defaults(command, settings.get(name, {}), shared, name, path) for name, command in commands.items()}


def _leaves(commands: Mapping[str, click.Command]) -> Iterator[click.Command]:
    for command in commands.values():
        if isinstance(command, click.Group):
            yield from _leaves(command.commands)
        else:
            yield command


def _defaults(command: click.Command, value: Any, shared: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    if isinstance(command, click.Group):
        inner = command.commands
        if not isinstance(value, dict):
            where = f"[{name}.{min(inner)}]"
            raise UsageError(f"'{name}' in {path} is a group of commands: write settings below a line such as {where}.")
        own = _table({key: each for key, each in value.items() if key not in inner}, name, {}, path)
        return own | {
            key: _defaults(each, value.get(key, {}), shared, f"{name}.{key}", path) for key, each in inner.items()
        }
    options = _options(command)
    return {key: each for key, each in shared.items() if key in options} | _table(value, name, options, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get("SWARM_CONFIG"):
            raise UsageError(f"SWARM_CONFIG names {path}, which does not exist.") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The settings in {path} cannot be read: {error}.") from error


def _options(command: click.Command) -> Options:
    return {option.name: option for option in command.params if isinstance(option, click.Option) and option.name}


def _table(value: Any, command: str, options: Options, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"'{command}' in {path} is a command: write its settings below a line [{command}].")
    return _checked(value, options, f"under [{command}] in {path}")


def _checked(table: dict[str, Any], options: Options, where: str) -> dict[str, Any]:
    flags = {}
    for key, value in table.items():
        option = options.get(key.replace("-", "_"))
        if option is None or option.name is None:
            raise UsageError(f"'{key}' {where} is not a setting; settings are the commands' long flags without dashes.")
        flags[option.name] = _value(option, value, f"'{key}' {where}")
    return flags


def _value(option: click.Option, value: Any, which: str) -> Any:
    """What TOML gave, if the flag takes it; a single value where several may be is a list of one."""
    values = value if option.multiple and isinstance(value, list) else [value]
    kinds, words = _kinds(option)
    if any(type(each) not in kinds for each in values):
        raise UsageError(f"{which} has to be {words}, not {value!r}.")
    try:
        for each in values:
            option.type.convert(each, option, None)
    except click.BadParameter as error:
        raise UsageError(f"{which} cannot be so: {error.message.rstrip('.')}.") from error
    return values if option.multiple else value


def _kinds(option: click.Option) -> tuple[tuple[type, ...], str]:
    if option.is_flag:
        return (bool,), "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return (int,), "a whole number"
    if isinstance(option.type, click.types.FloatParamType):
        return (int, float), "a number"
    return (str,), "text in quotes, or a list of such" if option.multiple else "text in quotes"
