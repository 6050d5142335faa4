"""`swarm plan`: every way to run a model here, what each would cost, and why it is not the best; with `--run`, what it
really costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from swarm.cli import loop, show
from swarm.cli.run import SETTLE_S
from swarm.errors import NoPeers, SwarmError
from swarm.loading import FREE_WIRES, Contest
from swarm.peer import Peer
from swarm.plan import Candidate, OnLoss, Plan
from swarm.types import TensorSpec, View

WARM_UPS = 3
WORTH_TELLING = 1.1
"""A gain that is worth a digit."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked on the command line."""

    model: str
    weights: str
    wire: str | None
    goal: str
    replicate: tuple[float, ...] | None
    on_loss: OnLoss
    run: int
    deadline_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a candidate really took: the median latency of `runs` requests, or why it could not be run."""

    runs: int
    latency_s: float = 0.0
    problem: str = ""


def run(peer: Peer, wish: Wish, *, as_json: bool) -> None:
    loop.run(_plan(peer, wish, as_json))


async def _plan(peer: Peer, wish: Wish, as_json: bool) -> None:
    measured: dict[int, Measured] = {}
    async with peer:
        with show.progress(as_json) as progress:
            await company(peer, wish.wait_s)
            how: dict[str, Any] = {"replicate": wish.replicate, "on_loss": wish.on_loss}
            contest = await peer.plan(wish.model, wish.weights, wish.wire, wish.goal, **how, progress=progress)
            for index, candidate in enumerate(contest.candidates if wish.run else ()):
                if candidate.plan is not None:
                    progress(f"Running {candidate.title}", None)
                    measured[index] = await _measure(peer, contest, candidate, wish)
    if as_json:
        show.print_json(_report(wish, contest, measured))
    else:
        _print(wish, contest, measured)
        _advise(wish, contest)


async def company(peer: Peer, wait_s: float) -> None:
    """Whoever is here by then; alone there is something to plan, too."""
    try:
        await peer.wait_for(timeout_s=wait_s, settle_s=SETTLE_S)
    except NoPeers:
        return


async def _measure(peer: Peer, contest: Contest, candidate: Candidate, wish: Wish) -> Measured:
    try:
        async with await peer.open(contest, candidate) as session:
            picture = _picture(contest.order.blueprint.profile.input)
            results = [await session(picture, deadline_s=wish.deadline_s) for _ in range(WARM_UPS + wish.run)]
    except SwarmError as error:
        return Measured(0, problem=str(error))
    return Measured(wish.run, median(result.latency_s for result in results[WARM_UPS:]))


def _picture(spec: TensorSpec) -> Any:
    """Noise, as the raw pixels of one picture."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (1, *spec.shape), np.uint8)


def _error(candidate: Candidate, measured: Measured | None) -> float | None:
    """Of the prediction: +0.10 says that it was a tenth too long."""
    if measured is None or candidate.plan is None or not measured.runs or not candidate.plan.estimate.latency_s:
        return None
    return candidate.plan.estimate.latency_s / measured.latency_s - 1


def _report(wish: Wish, contest: Contest, measured: Mapping[int, Measured]) -> dict[str, Any]:
    rows = [_row(candidate, contest.view, measured.get(i)) for i, candidate in enumerate(contest.candidates)]
    chosen = next((i for i, candidate in enumerate(contest.candidates) if candidate.plan is not None), None)
    return {"model": wish.model, "goal": wish.goal, "chosen": chosen, "candidates": rows}


def _row(candidate: Candidate, view: View, measured: Measured | None) -> dict[str, Any]:
    row: dict[str, Any] = {"title": candidate.title, "verdict": candidate.verdict, "feasible": False}
    if candidate.plan is None:
        return row
    estimate = candidate.plan.estimate
    row |= {
        "feasible": True,
        "strategy": candidate.plan.strategy,
        "latency_s": estimate.latency_s or None,
        "throughput_per_s": estimate.throughput_per_s or None,
        "moved_bytes": estimate.moved_bytes,
        "peak_memory_bytes": {show.name_of(view, peer): size for peer, size in estimate.peak_memory_bytes.items()},
        "losses_survived": estimate.losses_survived,
        "steps": [_step(candidate.plan, index, view) for index in range(len(candidate.plan.steps))],
        "answer_s": estimate.answer_s,
        "ask_s": estimate.ask_s,
        "accuracy": list(estimate.accuracy),
        "standbys": [[show.name_of(view, peer) for peer in plan.peers()] for plan in candidate.standbys],
    }
    if measured is not None:
        row["measured"] = {
            "runs": measured.runs,
            "latency_s": measured.latency_s or None,
            "error": _error(candidate, measured),
            "problem": measured.problem or None,
        }
    return row


def _step(plan: Plan, index: int, view: View) -> dict[str, Any]:
    step = plan.steps[index]
    expected = next((e for e in plan.estimate.steps if e.step == step.id), None)
    return {
        "id": step.id,
        "peers": [show.name_of(view, peer) for peer in step.peers],
        "part": f"{step.part.model}[{step.part.start}..{step.part.end}]",
        "wire": plan.inputs(step.id)[0].wire if plan.inputs(step.id) else None,
        "compute_s": expected.compute_s if expected else None,
        "queue_s": expected.queue_s if expected else None,
        "wire_s": expected.wire_s if expected else None,
        "bytes": expected.bytes if expected else None,
        "exchange_s": expected.exchange_s if expected else None,
    }


def _print(wish: Wish, contest: Contest, measured: Mapping[int, Measured]) -> None:
    """Figures as a table, narrow enough for a small terminal; ways and reasons below it, by number."""
    from rich.console import Console

    headers = ["", "ms", "a second", "KiB moved", "most memory", "survives"]
    headers += ["measured ms", "error"] if wish.run else []
    able = [pair for pair in enumerate(contest.candidates) if pair[1].plan is not None]
    rows = [_cells(number, candidate, contest.view, measured.get(number), wish) for number, candidate in able]
    Console().print(show.table(headers, rows, f"Ways to run {wish.model}, the best for {wish.goal} first"))
    for number, candidate in enumerate(contest.candidates):
        show.tell(f"{number + 1}. {candidate.title}: {candidate.verdict}")
        if number in measured and measured[number].problem:
            show.tell(f"   It could not be run: {measured[number].problem}")


def _advise(wish: Wish, contest: Contest) -> None:
    """What narrower tensors would gain: that costs digits, so it is for the user to say."""
    chosen, order = contest.candidates[0], contest.order
    if wish.wire is not None or chosen.plan is None or not chosen.plan.estimate.latency_s:
        return
    narrow = replace(order, goal=replace(order.goal, wires=FREE_WIRES)).contest(contest.view)[0]
    gain = chosen.plan.estimate.latency_s / narrow.plan.estimate.latency_s if narrow.plan else 1.0
    if gain > WORTH_TELLING:
        show.tell(f"With --wire auto, where tensors may travel as float16, {gain:.1f} times faster: {narrow.title}.")


def _cells(number: int, candidate: Candidate, view: View, measured: Measured | None, wish: Wish) -> list[str]:
    assert candidate.plan is not None
    estimate = candidate.plan.estimate
    cells = [
        str(number + 1),
        _known(estimate.latency_s * 1e3),
        _known(estimate.throughput_per_s),
        f"{estimate.moved_bytes / 1024:.0f}",
        _most(estimate.peak_memory_bytes, view),
        str(estimate.losses_survived),
    ]
    if wish.run:
        error = _error(candidate, measured)
        cells += [_known(measured.latency_s * 1e3) if measured else "", "" if error is None else f"{error:+.0%}"]
    return cells


def _known(figure: float) -> str:
    """Zero is what nobody could predict or measure."""
    return f"{figure:.1f}" if figure else "?"


def _most(by_peer: Mapping[Any, int], view: View) -> str:
    if not by_peer:
        return ""
    peer = max(by_peer, key=lambda p: (by_peer[p], p))
    return f"{by_peer[peer] / 1e6:.0f} MB {show.name_of(view, peer)}"
