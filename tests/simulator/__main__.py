"""`python -m tests.simulator SEED [SIZE]`, or `FROM:TO` for all seeds of a range. Exit code 1 when one fails."""

from __future__ import annotations

import sys
import time

from tests.simulator.chance import play
from tests.simulator.truth import Violation


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(argv: list[str]) -> int:
    first, _, end = argv[0].partition(":")
    size = int(argv[1]) if len(argv) > 1 else None
    seeds = range(int(first), int(end) if end else int(first) + 1)
    failed, began = 0, time.perf_counter()
    for seed in seeds:
        try:
            world = play(seed, size)
        except Violation as violation:
            failed += 1
            say(violation)
        else:
            if not end:
                for when, *what in world.log:
                    say(f"{when:9.3f}", *what)
                say(f"agreed at {world.clock.now:.2f} s, {world.messages} messages")
    say(f"{len(seeds) - failed} of {len(seeds)} seeds are well, in {time.perf_counter() - began:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
