"""The contest: every strategy's candidates side by side, the best first, and for each why it won or lost.

The whole model on the requester and on the strongest other device always stand in it: a split that does not beat them
is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Final

from swarm.errors import NoFit, SwarmError, UsageError
from swarm.plan import Candidate, Goal
from swarm.strategies.columns import Columns
from swarm.strategies.costs import Costs
from swarm.strategies.inside import run_of
from swarm.strategies.local import Local
from swarm.strategies.merit import by_merit
from swarm.strategies.partial import Partial
from swarm.strategies.shortage import shortage
from swarm.strategies.slices import Slices
from swarm.strategies.strategy import Strategy, counted
from swarm.strategies.survival import bears, degraded, losses_of, surviving
from swarm.strategies.tokens import Tokens
from swarm.strategies.verdicts import of_loser, of_winner
from swarm.types import ModelProfile, View

STRATEGIES: Final[dict[str, Strategy]] = {
    "local": Local(),
    "slices": Slices(),
    "tokens": Tokens(),
    "columns": Columns(),
    "partial": Partial(),
}

CHAINS: Final = ("slices", "local")
GROUPS: Final = ("tokens", "columns", "partial")


def contest(model: ModelProfile, view: View, goal: Goal) -> tuple[Candidate, ...]:
    """All candidates, the chosen one first; it has a plan, and `goal.survive` standbys. Those without a plan come last.

    With a wish for peers or cuts there is but one candidate, the one that was asked for.

    :raises NoFit: nothing fits, or nothing survives as many losses as the goal wants.
    :raises CannotSplit: the model does not come apart as asked.
    :raises NoPeers: fewer peers than asked for.
    """
    costs = Costs.of(model, view)
    if goal.split is not None or goal.peers is not None:
        name = "local" if goal.split is None and goal.peers is not None and len(goal.peers) == 1 else "slices"
        return _decided(STRATEGIES[name].propose(costs, goal), costs, goal)
    return _decided(_everything(costs, goal), costs, goal, may_deal=True)


def choose(name: str, model: ModelProfile, view: View, goal: Goal) -> Candidate:
    """The best candidate of the strategy called `name`, with its standbys; of `auto`, the contest's winner.

    :raises UsageError: no such strategy, or one that cannot do what the goal insists on.
    :raises NoFit: nothing fits, or nothing survives as many losses as the goal wants.
    :raises CannotSplit: the model does not come apart as asked.
    :raises NoPeers: fewer peers than the plan needs.
    """
    if name == "auto":
        return contest(model, view, goal)[0]
    if name not in STRATEGIES:
        raise UsageError(f"There is no strategy '{name}'; choose one of auto, {', '.join(sorted(STRATEGIES))}.")
    costs = Costs.of(model, view)
    own = STRATEGIES[name].propose(costs, goal)
    if own[0].plan is None:
        raise NoFit(f"{own[0].title}: {own[0].verdict.rstrip('.')}.")
    return _decided(own, costs, goal)[0]


def _everything(costs: Costs, goal: Goal) -> list[Candidate]:
    """All that can be done unasked, the best first; as the strategies have it where nothing was measured."""
    names = CHAINS if _says_nothing_of_blocks(costs.model) else (*CHAINS, *GROUPS)
    candidates = [_known(one, costs) for name in names for one in _proposed(name, costs, goal)]
    first = {candidate.plan.steps: candidate for candidate in reversed(candidates) if candidate.plan is not None}
    distinct = [one for one in candidates if one.plan is not None and first[one.plan.steps] is one]
    unable = [candidate for candidate in candidates if candidate.plan is None]
    return [*(distinct if costs.is_blind else by_merit(distinct, goal)), *unable]


def _says_nothing_of_blocks(model: ModelProfile) -> bool:
    """Neither that some can be shared out, nor why none can."""
    return model.inside_reason is None and run_of(model) is None


def _known(candidate: Candidate, costs: Costs) -> Candidate:
    """Unasked, nobody plans with a device that was not measured, once some were."""
    peers = candidate.plan.peers() if candidate.plan is not None else ()
    unknown = [costs.name(peer) for peer in peers if not costs.knows(peer)]
    if costs.is_blind or not unknown:
        return candidate
    return replace(candidate, plan=None, verdict=f"not measured yet: {', '.join(unknown)}")


def _proposed(name: str, costs: Costs, goal: Goal) -> Sequence[Candidate]:
    try:
        return STRATEGIES[name].propose(costs, goal)
    except SwarmError as error:
        return [Candidate(name, None, verdict=str(error))]


def _decided(
    candidates: Sequence[Candidate], costs: Costs, goal: Goal, *, may_deal: bool = False
) -> tuple[Candidate, ...]:
    """The first that can be, with the standbys that the goal wants, and everybody's verdict.

    With `may_deal` a candidate that was not among them may be made for the standbys' sake.
    """
    able = [candidate for candidate in candidates if candidate.plan is not None]
    if not able:
        raise NoFit(shortage(costs))
    losses = losses_of(goal)
    winner = _lasting(able, costs, goal, losses, may_deal) if losses else able[0]
    fragile = _fragile(able, winner, losses)
    others = [
        *(other for other in able if other not in fragile and not _is_same(other, winner)),
        *(replace(other, plan=None, verdict=_too_weak(other, losses)) for other in fragile),
        *(other for other in candidates if other.plan is None),
    ]
    told = [replace(other, verdict=of_loser(other, winner, costs, goal)) for other in others]
    return replace(winner, verdict=of_winner(winner, others, costs, goal)), *told


def _fragile(able: Sequence[Candidate], winner: Candidate, losses: int) -> list[Candidate]:
    """Those that were better, but do not bear the losses; where the winner does by itself, nothing does exactly."""
    weak = [candidate for candidate in able if bears(candidate) < losses]
    if losses and bears(winner) and not winner.standbys:
        return weak
    better = takewhile(lambda candidate: not _is_same(candidate, winner), able)
    return [candidate for candidate in better if candidate in weak]


def _too_weak(candidate: Candidate, losses: int) -> str:
    borne = bears(candidate)
    if borne:
        return f"survives only the loss of {counted(borne, 'peer')}"
    return f"leaves too little for {counted(losses, 'plan')} beside it"


def _is_same(candidate: Candidate, winner: Candidate) -> bool:
    """Whatever stands by."""
    return candidate.plan is not None and winner.plan is not None and candidate.plan.steps == winner.plan.steps


def _lasting(able: Sequence[Candidate], costs: Costs, goal: Goal, losses: int, may_deal: bool) -> Candidate:
    unasked = replace(goal, split=None, peers=None)

    def best(left: Costs) -> Candidate | None:
        return next(
            (found for found in _everything(left, unasked) if found.plan is not None and not bears(found)), None
        )

    exact = [candidate for candidate in able if not bears(candidate)]
    winner, most = surviving(exact, costs, losses, best, may_deal=may_deal)
    winner = winner or degraded(able, losses)
    if winner is not None:
        return winner
    most = max([most, *(bears(candidate) for candidate in able)])
    devices = len({*costs.devices, costs.me})
    had = f"at most survive={most} can be had" if most else "no loss can be borne"
    advice = f"add a device or ask for --goal survive={most}." if most else "add a device."
    raise NoFit(
        f"No plan of {costs.model.name} survives the loss of {counted(losses, 'peer')}: with the "
        f"{counted(devices, 'device')} here {had}; {advice}"
    )
