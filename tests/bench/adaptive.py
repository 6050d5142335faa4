"""Does a client's cut follow its own speed, its link and the server's load? One session, while the world changes.

    python -m tests.bench.adaptive [EVENT…]          Linux, root; about fifteen minutes

A weak client asks all the time, by a session of `auto` towards one strong peer. After each event its cut should move in
the direction that the event says, or may stay. Printed are the seconds until it did, the cut before and after, and the
latency of requests before the event, until the move, and then; and the bytes of parameters that the strong peer fetched
for it, which must be those that its part lacked and no more. Nothing may be lost on the way.

The model halves its pictures again and again: after a sixth of the work the tensor on the way has half of the raw
picture's bytes, as bfloat16. Rates are made for the machine at hand: with the fast link a picture travels in a quarter
of the time that the strong peer needs to compute the model. With the slow one it takes nearly as long as the client
would need for all of it: then that tensor is the better thing to send.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from swarm.secret import Secret
from tests.bench.ready import cache, get_ready, join
from tests.bench.requester import LOAD_S, Requester
from tests.lab import Device, Lab

MODEL, WEIGHTS = "mobilenetv4_conv_large", "random:0"
CUT, WIRE = "blocks.2.0.pw_proj.conv", "bfloat16"
"""Random weights make figures that are too large for float16."""
STRONG, CLIENT, CROWD = range(3)
SHARES = {"strong": 1.0, "client": 0.2, "crowd": 0.2}
FASTER, SLOWER = 1.0, 0.03
"""What the client has of a core when something else ends or begins there."""
FAST, SLOW, CRAWLING = 0.25, 0.85, 6.0
"""What a picture takes on the link, by what the strong peer, or (the other two) the client, needs for all of it."""
OTHERS = 6
GIGABIT: Final = 10**9
READY_S, STEADY_S = 300.0, 15.0
LATENCIES: Final = 12
"""Requests to take a median of."""
SAME: Final = 0.02
"""Of the model's work."""


@dataclass
class World:
    """The lab, who asks, and what may be changed."""

    lab: Lab
    client: Requester
    crowd: Requester
    rates: Mapping[str, int]

    def link(self, speed: str) -> None:
        self.lab.relink(CLIENT, self.rates[speed])

    def load(self) -> None:
        if not self.crowd.all("loaded"):
            self.crowd.tell("load", "load", how={"strategy": "local", "peers": ["strong"]})
            self.crowd.wait(lambda it: len(it.all("loaded")) == OTHERS, LOAD_S)
        self.crowd.tell("ask", "load", requests=None, at_once=1)

    def unload(self) -> None:
        self.crowd.tell("stop", "load")

    def share(self, cpu: float) -> None:
        self.lab.limit(CLIENT, cpu=cpu)


@dataclass(frozen=True)
class Event:
    """`more` says which way the work should go: 1 to the client, -1 to the strong peer."""

    title: str
    more: int
    happen: Callable[[World], None]


EVENTS: Mapping[str, Event] = {
    "crawl": Event("the link crawls", 1, lambda world: world.link("crawling")),
    "back": Event("the link is slow as before", -1, lambda world: world.link("slow")),
    "fast": Event("the link gets fast", -1, lambda world: world.link("fast")),
    "slow": Event("the link gets slow", 1, lambda world: world.link("slow")),
    "busy": Event(f"{OTHERS} others load the strong peer", 1, lambda world: world.load()),
    "idle": Event("the others stop", -1, lambda world: world.unload()),
    "free": Event(f"the client has {FASTER:.0%} of a core", 1, lambda world: world.share(FASTER)),
    "taken": Event(f"the client has {SLOWER:.0%} of a core", -1, lambda world: world.share(SLOWER)),
    "usual": Event(f"the client has {SHARES['client']:.0%} again", 1, lambda world: world.share(SHARES["client"])),
    "fast2": Event("the link gets fast", -1, lambda world: world.link("fast")),
}


@dataclass
class Outcome:
    """What came of an event."""

    event: Event
    at: float
    before: dict[str, Any]
    plans: list[dict[str, Any]] = field(default_factory=list)
    """Further ones, until the next event."""
    fetched: int = 0
    lacked: int = 0
    until: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adaptive")
    parser.add_argument("events", nargs="*", metavar="EVENT", help=f"of {', '.join(EVENTS)}; all of them in that order")
    parser.add_argument("--patience", type=float, default=80.0, metavar="S", help="how long a move may take")
    given = parser.parse_args()
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    devices = [Device(share, None, GIGABIT, name) for name, share in SHARES.items()]
    with Lab(devices, homes=True) as lab:
        whole_s = get_ready(lab, MODEL, asking=(CLIENT, CROWD))
        join(lab, STRONG, "strong")
        crowd, client = (
            Requester(lab, device, name, "strong", "--model", MODEL, "--weights", WEIGHTS, *more)
            for device, name, more in ((CROWD, "crowd", ("--peers", str(OTHERS))), (CLIENT, "client", ()))
        )
        for who in (client, crowd):
            who.wait(lambda it: it.all("ready"), READY_S)
        world = World(lab, client, crowd, rates(client.all("ready")[0]["picture_bytes"], whole_s))
        print(
            f"{MODEL}: {whole_s['strong'] * 1e3:.0f} ms on the strong peer, {whole_s['client'] * 1e3:.0f} ms on "
            f"the client; fast is {world.rates['fast'] / 1e6:.1f} Mbit/s, slow {world.rates['slow'] / 1e6:.1f}",
            flush=True,
        )
        run(world, [EVENTS[name] for name in given.events or EVENTS], given.patience)
        client.stop()
        crowd.stop()
    report(client, crowd)


def rates(picture_bytes: int, whole_s: Mapping[str, float]) -> Mapping[str, int]:
    """Bits a second."""
    return {
        "fast": int(8 * picture_bytes / (FAST * whole_s["strong"])),
        "slow": int(8 * picture_bytes / (SLOW * whole_s["client"])),
        "crawling": int(8 * picture_bytes / (CRAWLING * whole_s["client"])),
    }


def run(world: World, events: Sequence[Event], patience_s: float) -> None:
    client = world.client
    hold_the_tail(world)
    world.link("slow")
    client.tell("load", "own", how={"strategy": "auto", "wire": WIRE})
    client.wait_for("loaded", "own", 1, LOAD_S)
    client.tell("ask", "own", requests=None, at_once=1)
    time.sleep(2 * STEADY_S)
    first = client.all("plan", "own")[-1]
    needed = {digest: n for row in client.all("plan") for digest, n in row["plan"]["elsewhere"].items()}
    print(f"it begins with {words(first)}; {fetched_bytes(world.lab)} bytes fetched of {sum(needed.values())} lacked")
    print("| event | it moved after | from | to | bytes fetched | ms before | until it moved | then |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for event in events:
        tell(observe(world, event, patience_s), client)


def hold_the_tail(world: World) -> None:
    """What the strong peer needs for the first plan is there before the link gets slow."""
    how = {"strategy": "slices", "split": [CUT], "peers": ["client", "strong"], "wire": WIRE}
    world.client.tell("load", "before", how=how)
    world.client.wait_for("loaded", "before", 1, LOAD_S)


def observe(world: World, event: Event, patience_s: float) -> Outcome:
    """Until the cut has moved as it should, and some seconds more; or nothing came of it."""
    plans = world.client.all("plan", "own")
    outcome = Outcome(event, time.monotonic(), plans[-1])
    had = fetched_bytes(world.lab)
    event.happen(world)
    here = plans[-1]["plan"]["here"]

    def moved(it: Requester) -> bool:
        return any((row["plan"]["here"] - here) * event.more > SAME for row in it.all("plan", "own")[len(plans) :])

    world.client.waited(moved, patience_s)
    time.sleep(STEADY_S)
    outcome.until = time.monotonic()
    outcome.plans = world.client.all("plan", "own")[len(plans) :]
    outcome.fetched = fetched_bytes(world.lab) - had
    outcome.lacked = lacked_bytes(world.client.all("plan") + world.crowd.all("plan"), outcome)
    return outcome


def fetched_bytes(lab: Lab) -> int:
    """What the strong peer has of other peers' parameters on its disk."""
    return sum(file.stat().st_size for file in (cache(lab, STRONG) / "tensors").glob("*"))


def lacked_bytes(plans: list[dict[str, Any]], outcome: Outcome) -> int:
    """What parts of the new plans need there and no plan before them needed."""
    before = {digest for row in plans if row["t"] < outcome.at for digest in row["plan"]["elsewhere"]}
    new = [row for row in plans if row["t"] >= outcome.at]
    wanted = {digest: nbytes for row in new for digest, nbytes in row["plan"]["elsewhere"].items()}
    return sum(nbytes for digest, nbytes in wanted.items() if digest not in before)


def tell(outcome: Outcome, client: Requester) -> None:
    event, here = outcome.event, outcome.before["plan"]["here"]
    good = [row for row in outcome.plans if (row["plan"]["here"] - here) * event.more > SAME]
    moved = good[0]["t"] if good else outcome.until
    rows = client.all("request", "own")
    usual = [row["answered"] - row["asked"] for row in rows if row["answered"] < outcome.at][-LATENCIES:]
    between = [row["answered"] - row["asked"] for row in rows if outcome.at <= row["asked"] < moved]
    after = [row["answered"] - row["asked"] for row in rows if moved <= row["asked"] < outcome.until]
    how = f"{good[0]['t'] - outcome.at:.1f} s" if good else "no move"
    then = " then ".join(words(row) for row in outcome.plans) or "stays"
    print(
        f"| {event.title} | {how} | {words(outcome.before)} | {then} | {outcome.fetched} of {outcome.lacked} lacked | "
        f"{typical(usual)} | {typical(between)} | {typical(after)} |",
        flush=True,
    )


def typical(seconds: list[float]) -> str:
    return f"{median(seconds) * 1e3:.0f}" if seconds else "-"


def words(row: dict[str, Any]) -> str:
    plan = row["plan"]
    parts = ", ".join(f"{peer} to {end}" for peer, end in plan["parts"])
    return f"{parts} ({plan['here']:.0%} here, {plan['predicted_s'] * 1e3:.0f} ms)"


def report(*askers: Requester) -> None:
    lost = sum(len(asker.all("lost")) for asker in askers)
    rows = [row for asker in askers for row in asker.all("request")]
    wrong = sum(not row["right"] for row in rows)
    again = sum(row["attempts"] > 1 for row in rows)
    print(f"{len(rows)} requests answered, {lost} lost, {wrong} wrong, {again} asked more than once")


if __name__ == "__main__":
    main()
