"""`python -m tests.bench.serving`: the stages in order, and everything that was started ended."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.serving import overload, profiling, stages
from tests.bench.serving.environment import environment, versions
from tests.bench.serving.servers import Bench, secret

STAGES = ("alone", "native", "http", "overload")
"""Without `--only`, all of them; `--only none` leaves `--profile`."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description="How well does a peer serve?")
    parser.add_argument("--only", type=_listed, default=STAGES, help=f"of {','.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--overload-rows", type=int, default=1, help="pictures in each of its requests")
    parser.add_argument(
        "--ways", type=_listed, default=("native", "http"), help="of the overload and the profile: native,http"
    )
    parser.add_argument("--servers", type=_listed, default=stages.SERVERS, help=f"of {','.join(stages.SERVERS)}")
    parser.add_argument("--environment", type=Path, help="a folder that keeps mosec and LitServe for the next run")
    parser.add_argument("--profile", type=Path, help="a folder for what py-spy saw")
    wish = parser.parse_args()
    if unknown := set(wish.only) - {*STAGES, "none"}:
        parser.error(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    return wish


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def main() -> None:
    wish = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the blocks below end what they began
    secret()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        bench = Bench(stack, folder, wish.environment.resolve() if wish.environment else folder / "environment")
        if "http" in wish.only and set(wish.servers) - {"swarm"}:
            print(f"{versions(environment(bench.cache))}, {os.cpu_count()} cores\n", flush=True)
        if "alone" in wish.only and "native" not in wish.only:
            stages.show_alone([stages.alone(bench, wish.seconds)])
        if "native" in wish.only:
            stages.native(bench, wish.seconds, wish.rounds)
        if "http" in wish.only:
            stages.http(bench, wish.seconds, wish.rounds, wish.servers)
        if "overload" in wish.only:
            for way in overload.ways(bench, wish.ways):
                overload.overload(way, wish.seconds, wish.overload_seconds, wish.overload_rows)
        if wish.profile is not None:
            profiling.profile(bench, wish.profile, wish.ways)


if __name__ == "__main__":
    main()
