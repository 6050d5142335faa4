"""Do groups answer as one device does? Every split and two wires, on test pictures of Fashion-MNIST."""

from __future__ import annotations

import argparse
from typing import Any

from tests.bench.inside.scene import scene
from tests.lab import Device

DEVICES, PICTURES, BATCH = 4, 1000, 50


def exact(given: argparse.Namespace) -> None:
    devices = [Device(given.share, None, int(given.link * 1e6), f"{given.share:.0%}")] * DEVICES
    names = ["me", *(f"d{number}" for number in range(1, DEVICES))]
    with scene(devices, given.model or "fashion-vit", given.weights, given.models, is_open=given.open) as lab:
        lab.load("local", strategy="local")
        wanted = label(lab, "local", given.data)
        lab.ask("local", 1)
        print("| split | wire | the same class, of pictures | largest difference of an answer |\n|---|---|---|---|")
        for strategy in ("tokens", "columns", "partial"):
            for wire in ("float32", "float16"):
                key = f"{strategy}-{wire}"
                lab.load(key, strategy=strategy, wire=wire, peers=names)
                away = max(result["away"] for result in lab.ask(key, 5))
                found = label(lab, key, given.data)
                same = sum(a == b for a, b in zip(found, wanted, strict=True))
                print(f"| {strategy} | {wire} | {same} of {len(wanted)} | {away:.1e} |", flush=True)


def label(lab: Any, key: str, data: str) -> list[int]:
    done = lab.do("label", key, folder=data, first=0, count=PICTURES, batch=BATCH)
    guesses: list[int] = done["guesses"]
    return guesses
