"""Who holds what: pure decisions over a model's profile and a view of the swarm.

    model, view ─▶ costs ─▶ every strategy's candidates ─▶ contest ─▶ plan, and its standbys

    local, slices              `chain`: one peer after the other
    tokens, columns, partial   `teams`, `sharing`, `grouping`: a group of peers shares every block, in `lockstep`

A strategy has one method, `propose`, and emits plans; nothing in `swarm/` knows its name. All figures come from one
cost model (`costs`, `links`, `lockstep`, `prediction`), so that what is searched for is what is promised.
"""

from __future__ import annotations

from swarm.strategies.contest import STRATEGIES, choose, contest
from swarm.strategies.prediction import predict
from swarm.strategies.strategy import Strategy

__all__ = ["STRATEGIES", "Strategy", "choose", "contest", "predict"]
