"""Several weak clients and one strong peer: the swarm's own plans against every client running the whole model alone.

    python -m tests.bench.clients [--clients 4] [--requests 6] [--rounds 2]          Linux, root; about ten minutes

Clients and strong peer are the lab's presets `pi4` and `desktop`, on gigabit links, both slowed down alike until all
fit into the cores of one small machine: what counts is that a desktop computes 12.5 times as much as a Pi 4. Their
shares add up to less than the machine has, so nobody's quota is a lie.

Each client has two sessions of one model: `local`, and what `auto` chooses for it, which may compute a head on the
client. All clients ask at once, each one request after another; the two sessions take turns, round by round, so that
what else the machine does meets both. Before the first round of `auto` clients ask until sessions have had time to
look at the load and to move.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median, quantiles

from swarm.secret import Secret
from tests.bench.ready import get_ready, join
from tests.bench.requester import Requester
from tests.lab import Device, Lab, presets

STRONG = "strong"
WAYS = {"local": "every client alone", "auto": "as the swarm plans"}
PI4_TO_DESKTOP = round((presets.pi4.cpu or 1.0) / (presets.desktop.cpu or 1.0), 3)
BAR = 0.67
READY_S, LOAD_S, ROUND_S = 300.0, 600.0, 900.0
CALM_S = 12.0
"""A peer tells every ten seconds how busy it is."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.clients")
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--client-share", type=float, default=PI4_TO_DESKTOP)
    parser.add_argument("--strong-share", type=float, default=1.0)
    parser.add_argument("--link", type=float, default=1000.0, metavar="MBIT", help="of every device")
    parser.add_argument("--requests", type=int, default=6, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--settle", type=float, default=60.0, metavar="S", help="to look at the load and to move")
    return parser.parse_args()


def devices(given: argparse.Namespace) -> list[Device]:
    link = int(given.link * 1e6)
    strong = replace(presets.desktop, cpu=given.strong_share, link_bits_per_s=link, name=STRONG)
    client = replace(presets.pi4, cpu=given.client_share, memory_bytes=2 * presets.GIBIBYTE, link_bits_per_s=link)
    return [strong, *[client] * given.clients]


def main() -> None:
    given = arguments()
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    with Lab(devices(given), homes=True) as lab:
        total, cores = sum(device.cpu or 0.0 for device in lab.devices), os.cpu_count() or 1
        print(
            f"{given.clients} clients with {given.client_share:.1%} of a core each, {STRONG} with "
            f"{given.strong_share:.0%}: {given.strong_share / given.client_share:.1f} times as much; "
            f"{total:.2f} of {cores} cores; {given.link:g} Mbit/s; {given.model}",
            flush=True,
        )
        asking = range(1, lab.size)
        get_ready(lab, given.model, asking=asking)
        join(lab, 0, STRONG)
        clients = [Requester(lab, i, f"client{i}", STRONG, "--model", given.model) for i in asking]
        for client in clients:
            client.wait(lambda it: it.all("ready"), READY_S)
        for key in WAYS:
            load(clients, key)
        measure(clients, given)
        for client in clients:
            client.stop()


def load(clients: Sequence[Requester], key: str) -> None:
    for client in clients:
        client.tell("load", key, how={"strategy": key})
    for client in clients:
        client.wait_for("loaded", key, 1, LOAD_S)


def measure(clients: Sequence[Requester], given: argparse.Namespace) -> None:
    took: dict[str, list[float]] = {key: [] for key in WAYS}
    settle(clients, given.settle)
    for number in range(1, given.rounds + 1):
        for key, way in WAYS.items():
            seconds = ask(clients, key, given.requests)
            took[key] += seconds
            print(f"round {number}, {way}: mean {fmean(seconds) * 1e3:.0f} ms", flush=True)
            time.sleep(CALM_S)
    report(clients, took)


def ask(clients: Sequence[Requester], key: str, requests: int) -> list[float]:
    """All clients at once, each one request after another; what each request took."""
    began, before = time.monotonic(), [len(client.all("answered", key)) for client in clients]
    for client in clients:
        client.tell("ask", key, requests=requests, at_once=1)
    for client, count in zip(clients, before, strict=True):
        client.wait_for("answered", key, count + 1, ROUND_S)
    rows = [row for client in clients for row in client.all("request", key) if row["asked"] >= began]
    return [row["answered"] - row["asked"] for row in rows]


def settle(clients: Sequence[Requester], seconds: float) -> None:
    """Sessions look around every half a minute."""
    for client in clients:
        client.tell("ask", "auto", requests=None, at_once=1)
    time.sleep(seconds)
    for client in clients:
        client.tell("stop", "auto")
    for client in clients:
        client.wait_for("answered", "auto", 1, ROUND_S)


def report(clients: Sequence[Requester], took: dict[str, list[float]]) -> None:
    for number, client in enumerate(clients, 1):
        plans = " then ".join(words(row["plan"]["parts"]) for row in client.all("plan", "auto"))
        print(f"client{number} had {plans}")
    lost = sum(len(client.all("lost")) for client in clients)
    wrong = sum(not row["right"] for client in clients for row in client.all("request"))
    print("| | requests | mean ms | median ms | p99 ms |\n|---|---|---|---|---|")
    for key, seconds in took.items():
        p99 = quantiles(seconds, n=100, method="inclusive")[98]
        print(
            f"| {WAYS[key]} | {len(seconds)} | {fmean(seconds) * 1e3:.0f} | {median(seconds) * 1e3:.0f} | "
            f"{p99 * 1e3:.0f} |"
        )
    less = 1 - fmean(took["auto"]) / fmean(took["local"])
    print(f"{lost} requests lost, {wrong} wrong")
    print(f"mean inference time {less:.1%} lower (bar {BAR:.0%}): {'met' if less >= BAR else 'MISSED'}")


def words(parts: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{peer} to {end}" for peer, end in parts)


if __name__ == "__main__":
    main()
