"""The scenes; see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench.inside import deaths, exact, speed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.inside")
    parser.add_argument("scene", choices=["speed", "unequal", "deaths", "exact"])
    parser.add_argument("--model", default="")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--models", action="append", default=[])
    parser.add_argument("--data", default="", help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--share", type=float, default=0.2, help="of a core, of each device")
    parser.add_argument("--link", type=float, default=1000.0, metavar="MBIT")
    parser.add_argument("--wire", default="float16")
    parser.add_argument("--strategies", default="tokens,columns")
    parser.add_argument("--requests", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open", action="store_true", help="no encryption")
    parser.add_argument("--out", type=Path, help="folder for figures")
    given = parser.parse_args()
    scenes = {"speed": speed.against_devices, "unequal": speed.unequal, "deaths": deaths.deaths, "exact": exact.exact}
    scenes[given.scene](given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
