"""Names say who made a thing, so that a later run can tell what a killed one left behind."""

from __future__ import annotations

import os
import re
from itertools import count
from pathlib import Path

PREFIX = "swl"
_OURS = re.compile(rf"{PREFIX}(\d+)(x\d+|probe).*")
_numbers = count()


def new_tag() -> str:
    """What all names of one lab begin with; it ends in a digit, and what follows it is a letter."""
    return f"{PREFIX}{os.getpid()}x{next(_numbers)}"


def probe_name() -> str:
    return f"{PREFIX}{os.getpid()}probe"


def is_stale(name: str) -> bool:
    """Whether a lab made it whose process is no more."""
    owner = _OURS.fullmatch(name)
    return owner is not None and not Path(f"/proc/{owner[1]}").exists()


def is_of(name: str, tag: str) -> bool:
    return re.fullmatch(rf"{tag}[a-z]\w*", name) is not None
