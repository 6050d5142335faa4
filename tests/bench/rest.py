"""What a swarm at rest says: `python -P tests/bench/rest.py [N]`; Linux, loopback, a minute or two.

N real peers in processes of their own; bytes that the kernel counts on loopback, all headers included, for each peer
and second. Nothing else may use loopback meanwhile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # at the end: `swarm` is the installed one

from swarm.secret import Secret
from tests.members import Members

BAR_BYTES_PER_S = 2000
SETTLE_S, LOOK_S = 30.0, 30.0


def loopback_bytes() -> int:
    """Sent so far; on loopback the same were received."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def measure(size: int) -> None:
    with Members(env={"SWARM_SECRET": Secret.new().reveal()}) as members:
        first = members.start(0)
        while first.ready is None:
            time.sleep(0.1)
        for number in range(1, size):
            members.start(number, f"127.0.0.1:{first.ready['port']}")
        members.all_alive(within_s=120.0)
        time.sleep(SETTLE_S)
        before = loopback_bytes()
        time.sleep(LOOK_S)
        each = (loopback_bytes() - before) / size / LOOK_S
    print(
        f"at rest, N = {size}: {each:.0f} B/s sent by each peer and as many received, {2 * each:.0f} in all, "
        f"{2 * each / BAR_BYTES_PER_S:.2f} of the bar (2 KB/s)"
    )


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
