"""`swarm doctor`: why are my peers not seen?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.cli import loop
from swarm.cli.show import print_json, tell
from swarm.doctor.collect import Question, examine
from swarm.doctor.words import Finding, Level, Report
from swarm.errors import UsageError
from swarm.known import known_file
from swarm.types import Address

_WORDS = {Level.PROBLEM: "problem", Level.WARN: "warning", Level.OK: "ok"}
_INDENT = " " * 9


def run(
    *,
    wait: float,
    interface: Sequence[str],
    peer: Sequence[str],
    no_mdns: bool,
    forget: bool,
    secret_file: str | None,
    open: bool,  # noqa: A002
    as_json: bool,
) -> None:
    """Examine this device; the words are those of the flags."""
    if open and secret_file:
        raise UsageError("--open and --secret-file contradict each other; give one of them.")
    question = Question(
        interfaces=interface,
        peers=[Address.parse(text) for text in peer],
        known=None if forget else known_file(),
        mdns=not no_mdns,
        is_open=open,
        secret_file=Path(secret_file) if secret_file else None,
        wait_s=wait,
    )
    loop.run(_doctor(question, as_json))


async def _doctor(question: Question, as_json: bool) -> None:
    """Raises `SystemExit(1)` where there is a problem: the findings are the answer, so there is no error to print."""
    report = await examine(question)
    if as_json:
        print_json(_json(report))
    else:
        for finding in report.findings:
            _tell(finding)
        tell("")
        tell(f"Next: {report.next_step}")
    if not report.is_well:
        raise SystemExit(1)


def _tell(finding: Finding) -> None:
    tell(f"{_WORDS[finding.level]:<{len(_INDENT)}}{finding.title}")
    if finding.level is not Level.OK:
        tell(f"{_INDENT}test: {finding.test}")
        tell(f"{_INDENT}cure: {finding.cure}")


def _json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.is_well,
        "findings": [
            {"code": each.code, "level": _WORDS[each.level], "title": each.title, "test": each.test, "cure": each.cure}
            for each in report.findings
        ],
        "next": report.next_step,
        "peers": [
            {"name": visit.name, "id": visit.id, "address": str(visit.address), "hello_s": visit.hello_s}
            for visit in report.seen
        ],
    }
