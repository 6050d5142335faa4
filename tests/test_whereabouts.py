"""A request that takes long is found: at the peer where it stands, or on the way from there."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np

from swarm.types import PeerId
from swarm.whereabouts import Sighting, Stand, culprit
from tests.test_healing import eventually, holds
from tests.toy import agree, chain_of, swarm_of


async def test_it_is_where_it_has_stood_longest(tmp_path: Path) -> None:
    go = threading.Event()
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        plan = chain_of(me, ant, bee)
        me.dataflow.install(plan)
        await agree(me, plan, ant, bee)
        assert all(seen.stand is None for seen in await me.dataflow.whereabouts.look(plan))
        bee.workshop.before_run = holds(go)
        loop = asyncio.get_running_loop()
        asking = asyncio.create_task(me.dataflow.ask(plan, np.ones((1, 4), np.float32), loop.time() + 10))
        await eventually(lambda: bee.holdings.batcher._running)
        await eventually(lambda: ant.dataflow.whereabouts.longest(plan.id) is None)
        found = culprit(await me.dataflow.whereabouts.look(plan), 0.0)
        assert found is not None
        assert found.stand is not None
        assert (found.peer, found.stand.step, found.stand.to) == ("bee", "1", "")
        go.set()
        await asking
        await eventually(lambda: bee.dataflow.whereabouts.longest(plan.id) is None)


async def test_who_does_not_answer_is_suspected(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        plan = chain_of(me, ant)
        await ant.die()
        sightings = await me.dataflow.whereabouts.look(plan)
        assert culprit(sightings, 1.0) == Sighting(PeerId("ant"), silent=True)


def test_a_stand_says_more_than_silence_unless_it_is_short_or_leads_there() -> None:
    ant, bee, cat = (PeerId(name) for name in ("ant", "bee", "cat"))
    silent, stands = Sighting(ant, silent=True), Sighting(bee, Stand("0", 1.0))
    assert culprit([silent, stands, Sighting(cat, Stand("1", 0.2, "bee", 9))], 0.5) == stands
    assert culprit([silent, stands], 2.0) == silent, "nobody has had it for long"
    assert culprit([silent, Sighting(bee, Stand("0", 1.0, "ant", 9))], 0.5) == silent, "it is on its way there"
    assert culprit([Sighting(ant)], 0.5) is None
