"""Latency of one request: against the number of devices, and with unequal devices."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tests.bench.inside.chart import Bar, chart
from tests.bench.inside.scene import Scene, scene
from tests.lab import Device

MODEL = "vit_base_patch16_224"
UNEQUAL = (0.4, 0.2, 0.2, 0.1)
MBIT = 10**6
WARM_UPS = 2
BARS = {("tokens", 2): 1.7, ("tokens", 4): 2.8, ("tokens", 8): 4.0, ("columns", 2): 1.5, ("columns", 4): 2.5}
UNEQUAL_BAR = 0.31


def against_devices(given: argparse.Namespace) -> None:
    """Each strategy on so many devices, in turns with one device alone."""
    counts = [int(count) for count in given.devices.split(",")]
    devices = [Device(given.share, None, int(given.link * MBIT), f"{given.share:.0%}")] * max(counts)
    with scene(devices, given.model or MODEL, given.weights, given.models, is_open=given.open) as lab:
        ways: dict[tuple[str, int], dict[str, Any]] = {("local", 1): load(lab, "local-1", given, strategy="local")}
        for strategy in given.strategies.split(","):
            for count in counts:
                if count > 1:
                    key = f"{strategy}-{count}"
                    names = ["me", *(f"d{number}" for number in range(1, count))]
                    ways[strategy, count] = load(lab, key, given, strategy=strategy, peers=names)
        ways = {way: plan for way, plan in ways.items() if "sentence" not in plan}
        times = measured(lab, [f"{strategy}-{count}" for strategy, count in ways], given)
    report(ways, times, given)


def unequal(given: argparse.Namespace) -> None:
    """Shares that follow speed, against equal ones, and what `auto` takes."""
    devices = [Device(share, None, int(given.link * MBIT), f"{share:.0%}") for share in UNEQUAL]
    with scene(devices, given.model or MODEL, given.weights, given.models, is_open=given.open) as lab:
        told = lab.do("contest", "contest", wire=given.wire, strategies=given.strategies.split(","))
        for title, verdict in told["verdicts"]:
            print(f"  {title}: {verdict}")
        keys = told["opened"]
        times = measured(lab, list(keys), given)
    print(f"\nShares of a core {UNEQUAL}, {given.link:g} Mbit/s, {given.wire} on the wire")
    print("| way | predicted ms | measured ms | exchange ms |\n|---|---|---|---|")
    for key, plan in keys.items():
        predicted = plan["estimate"]["latency_s"]
        print(
            f"| {plan['title']} | {predicted * 1e3:.0f} | {middle(times[key]) * 1e3:.0f} | {exchange_ms(times[key])} |"
        )
    for strategy in given.strategies.split(","):
        pair = [middle(times[key]) for key in (f"{strategy}", f"{strategy}, equal") if key in times]
        if len(pair) == 2:
            less = 1 - pair[0] / pair[1]
            print(f"{strategy}: {less:.1%} below equal shares (bar {UNEQUAL_BAR:.0%})")


def load(lab: Scene, key: str, given: argparse.Namespace, **how: Any) -> dict[str, Any]:
    done = lab.load(key, wire=given.wire, **how)
    print(f"loaded {key} in {done.get('took_s', 0.0):.1f} s: {shares(done)}", flush=True)
    return done


def shares(plan: Mapping[str, Any]) -> str:
    """Tokens of each member, or heads and neurons of its first block."""
    members = [member for group in plan.get("groups", ()) for member in group["members"]]
    if plan.get("strategy") == "tokens":
        return ", ".join(str(member["tokens"]) for member in members)
    shards = [member["part"]["shard"] for member in members]
    return ", ".join(f"{shard['heads'][0]}+{shard['neurons'][0]}" for shard in shards)


def measured(lab: Scene, keys: Sequence[str], given: argparse.Namespace) -> Mapping[str, list[dict[str, Any]]]:
    """All in turns, round by round."""
    times: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    for key in keys:
        lab.ask(key, WARM_UPS)
    for number in range(given.rounds):
        for key in keys:
            before = lab.cpu_s()
            some = lab.ask(key, given.requests)
            for result in some:
                result["cpu_ms"] = {
                    name: (used - before[name]) * 1e3 / given.requests for name, used in lab.cpu_s().items()
                }
            times[key] += some
        print(f"round {number + 1}: " + ", ".join(f"{key} {middle(times[key]) * 1e3:.0f}" for key in keys), flush=True)
    for lost in lab.all("lost"):
        print(f"LOST: {lost['sentence']}")
    return times


def middle(results: Sequence[Mapping[str, Any]]) -> float:
    return median(result["seconds"] for result in results) if results else float("nan")


def exchange_ms(results: Sequence[Mapping[str, Any]]) -> str:
    """How long the lead waited for others, of one request."""
    return f"{fmean(sum(row['exchange_s'] for row in result['trace']) for result in results) * 1e3:.0f}"


def cpu_ms(results: Sequence[Mapping[str, Any]]) -> str:
    """Of a core, for one request: on the device that asks and leads, and on the busiest of the others."""
    mine = fmean(result["cpu_ms"]["me"] for result in results)
    names = [name for name in results[0]["cpu_ms"] if name != "me"]
    others = max((fmean(result["cpu_ms"][name] for result in results) for name in names), default=0.0)
    return f"{mine:.0f}, {others:.0f}"


def bar(way: str, devices: int, results: Sequence[Mapping[str, Any]]) -> Bar:
    computes, waits = (
        fmean(sum(row[key] for row in result["trace"]) for result in results) * 1e3
        for key in ("compute_s", "exchange_s")
    )
    return Bar(way, devices, computes, waits, max(0.0, fmean(r["seconds"] for r in results) * 1e3 - computes - waits))


def report(
    ways: Mapping[tuple[str, int], Mapping[str, Any]],
    times: Mapping[str, list[dict[str, Any]]],
    given: argparse.Namespace,
) -> None:
    alone = middle(times["local-1"])
    bars = [bar(strategy, count, times[f"{strategy}-{count}"]) for strategy, count in ways]
    if given.out is not None:
        title = f"{given.model or MODEL}, {given.share:.0%} of a core each, {given.link:g} Mbit/s"
        (given.out / "inside_latency.svg").write_text(chart(title, bars))
    link = f"{given.link:g} Mbit/s{', not encrypted' if given.open else ''}"
    print(
        f"\n{given.share:.0%} of a core each, {link}, {given.wire} on the wire, {len(times['local-1'])} requests each"
    )
    print(
        "| way | devices | measured ms | faster | bar | predicted ms | computes ms | waits ms | "
        "CPU ms of it, of the busiest other | MB moved | most of the model | away |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for (strategy, count), plan in ways.items():
        results, estimate = times[f"{strategy}-{count}"], plan["estimate"]
        computes = bar(strategy, count, results).compute
        most = max(plan["held_bytes"].values()) / plan["model_bytes"]
        away = max(result["away"] for result in results)
        print(
            f"| {strategy} | {count} | {middle(results) * 1e3:.0f} | {alone / middle(results):.2f} | "
            f"{BARS.get((strategy, count), '')} | {estimate['latency_s'] * 1e3:.0f} | {computes:.0f} | "
            f"{exchange_ms(results)} | {cpu_ms(results)} | {estimate['moved_bytes'] / 1e6:.2f} | {most:.4f} | "
            f"{away:.1e} |"
        )
