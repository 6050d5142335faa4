"""What trust costs: TLS connect and first answer, SPAKE2, credentials: `python tests/bench/trust.py [rounds]`.

On loopback, both sides in one process, so that each figure holds the work of both; medians. The bar: connect and first
answer under 10 ms.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

import uvloop

from swarm.pairing import Admission, Code, Exchange, Gift, Joining
from swarm.secret import Secret
from swarm.transport import PROTOCOL, Call, Channel, Hello, Reply, Router, TcpTransport
from swarm.trust import Credentials, ephemeral, identify
from swarm.types import Address, PeerId


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def connect(host: TcpTransport, guest: TcpTransport, ids: tuple[PeerId, PeerId], rounds: int) -> list[float]:
    """Milliseconds from dialling to the first answer, for each round."""
    router, arrived, took = Router(), list[Channel](), []

    def answer(channel: Channel, call: Call) -> Reply:
        return Reply()

    router.add("ask", answer)
    listener = await host.listen(
        [Address("127.0.0.1", 0)], Hello(PROTOCOL, ids[0], "host", "control"), router, arrived.append
    )
    for _ in range(rounds):
        began = time.perf_counter()
        hello = Hello(PROTOCOL, ids[1], "guest", "control")
        channel = await guest.dial(listener.addresses[0], hello, Router(), timeout_s=5)
        await channel.request("ask", {}, timeout_s=5)
        took.append((time.perf_counter() - began) * 1000)
        await channel.aclose()
    for channel in arrived:
        await channel.aclose()
    await listener.aclose()
    return took


def tls(mine: Credentials) -> TcpTransport:
    return TcpTransport(mine.server, mine.client, identify=identify)


def pair() -> None:
    code, certificate = Code.new(), bytes(32)
    host, guest = Exchange(Admission(code, Gift(bytes(32)), certificate, 0.0)), Joining(code, certificate, "guest")
    say = guest.begin()
    while guest.gift is None:
        say = guest.received(host.received(say, 1.0))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    secret = Secret.new()
    host, guest = ephemeral(secret), ephemeral(secret)
    ids = (host.id, guest.id)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        plain = runner.run(connect(TcpTransport(), TcpTransport(), ids, rounds))
        secured = runner.run(connect(tls(host), tls(guest), ids, rounds))
    for name, took in (("open", plain), ("mutual TLS 1.3", secured)):
        worst = sorted(took)[int(len(took) * 0.99)]
        print(f"connect and first answer, {name}: {statistics.median(took):.2f} ms, p99 {worst:.2f} ms")
    print(f"a peer's credentials: {milliseconds(lambda: ephemeral(secret), rounds):.2f} ms")
    print(f"a whole pairing, both sides: {milliseconds(pair, max(3, rounds // 10)):.1f} ms")


if __name__ == "__main__":
    main()
