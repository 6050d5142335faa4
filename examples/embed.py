"""A swarm inside a Python program: `python examples/embed.py [PICTURE...]`.

Two peers of one process share a model here, over loopback, in a swarm of their own, so that it runs anywhere. On a
network leave out the helper and `ON_LOOPBACK`: the devices that have joined do its part.
"""

import asyncio
import sys
from importlib.resources import files
from typing import Any

from swarm import Peer
from swarm.secret import Secret

ON_LOOPBACK: dict[str, Any] = {"interfaces": ["127.0.0.1"], "port": 0, "secret": Secret.new()}
PICTURES = [str(files("swarm.models") / f"data/pictures/{name}.png") for name in ("sneaker-1", "dress-1", "bag-1")]


async def main(pictures: list[str]) -> None:
    async with Peer("helper", **ON_LOOPBACK), Peer("app", **ON_LOOPBACK) as peer:
        await peer.wait_for(["helper"])
        async with await peer.load("fashion-vit", split=[6], peers=["app", "helper"]) as vit:
            result = await vit(pictures)
        for picture, labels in zip(pictures, result.labels, strict=True):
            print(f"{picture.rsplit('/', 1)[-1]}: {labels[0].label} ({labels[0].score:.0%})")
        for row in result.trace:
            print(f"{row.peer}: {row.compute_s * 1000:.1f} ms computing, {row.bytes} bytes received")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or PICTURES))
