"""Who holds what: pure decisions over a model's profile and a view of the swarm.

A strategy has one method, `propose`, and emits plans; nothing in `swarm/` knows its name.
"""

from __future__ import annotations

from typing import Final, Protocol

from swarm.errors import CannotSplit, UsageError
from swarm.plan import Goal, Plan
from swarm.strategies.local import Local
from swarm.strategies.slices import Slices
from swarm.types import ModelProfile, View


class Strategy(Protocol):
    """One way to split a model."""

    def propose(self, model: ModelProfile, view: View, goal: Goal) -> list[Plan]:
        """Plans, best first. Raises `CannotSplit` or `NoPeers` with the reason when there is none."""


STRATEGIES: Final[dict[str, Strategy]] = {"local": Local(), "slices": Slices()}


def choose(name: str, model: ModelProfile, view: View, goal: Goal) -> Plan:
    """The best plan of the strategy called `name`; `auto` shares the model if it can, and else runs it whole.

    :raises UsageError: no such strategy.
    :raises CannotSplit: the model does not come apart as asked.
    :raises NoPeers: fewer peers than the plan needs.
    """
    if name != "auto":
        return _named(name).propose(model, view, goal)[0]
    insisted = goal.split is not None or (goal.peers is not None and len(goal.peers) > 1)
    alone = not any(host.id != view.me for host in view.hosts())
    if not insisted and (alone or model.uncut_reason is not None):
        return STRATEGIES["local"].propose(model, view, goal)[0]
    try:
        return STRATEGIES["slices"].propose(model, view, goal)[0]
    except CannotSplit:
        if insisted:
            raise
        return STRATEGIES["local"].propose(model, view, goal)[0]


def _named(name: str) -> Strategy:
    if name not in STRATEGIES:
        raise UsageError(f"There is no strategy '{name}'; choose one of auto, {', '.join(sorted(STRATEGIES))}.")
    return STRATEGIES[name]
