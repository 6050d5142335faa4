"""What somebody on the same network can read of a swarm at work: every packet to and from one device is looked at."""

from __future__ import annotations

import json
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import platformdirs
import pytest

from tests.e2e.command import PICTURES, joined, swarm_json
from tests.lab import Lab

pytestmark = [pytest.mark.timeout(180), pytest.mark.may_block("it watches processes")]

WEIGHTS = Path(__file__).resolve().parents[2] / "models/data/fashion-vit.safetensors"
SNIFFER = """
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
packets.bind((sys.argv[1], 0))
print("ready", flush=True)
with open(sys.argv[2], "wb", buffering=0) as file:
    while True:
        file.write(packets.recv(1 << 17))
"""


@contextmanager
def sniffing(lab: Lab, device: int, file: Path) -> Iterator[None]:
    """Write down what passes the switch's port of a device."""
    inside = ["ip", "netns", "exec", lab.hub, sys.executable, "-c", SNIFFER, f"p{device}", str(file)]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            sniffer.kill()


def captured(tmp_path: Path, *flags: str) -> bytes:
    """All that device 2 sent and received while it joined two others and ran a model on them."""
    file = tmp_path / "packets"
    with Lab(3) as lab, ExitStack() as stack:
        stack.enter_context(sniffing(lab, 2, file))
        for i in range(2):
            stack.enter_context(joined(*flags, name=f"kitchen-{i}", lab=lab, device=i))
        report = swarm_json(
            "run", "fashion-vit", *PICTURES[:2], "--on", "kitchen-0,kitchen-1", *flags, lab=lab, device=2
        )
        assert [row["peer"] for row in report["trace"]] == ["kitchen-0", "kitchen-1"]
    return file.read_bytes()


@pytest.fixture(autouse=True)
def no_tensors_cached() -> None:
    """So that the parameters have to travel."""
    shutil.rmtree(platformdirs.user_cache_path("swarm", appauthor=False) / "tensors", ignore_errors=True)


def needles() -> dict[str, bytes]:
    raw = WEIGHTS.read_bytes()
    [header] = struct.unpack("<Q", raw[:8])
    tensors = {name: entry for name, entry in json.loads(raw[8 : 8 + header]).items() if name != "__metadata__"}
    longest = max(tensors.values(), key=lambda entry: entry["data_offsets"][1] - entry["data_offsets"][0])
    middle = 8 + header + sum(longest["data_offsets"]) // 2
    return {
        "a tensor of the model": raw[middle : middle + 48],
        "the model's name": b"fashion-vit",
        "a device's name": b"kitchen-0",
        "the other device's name": b"kitchen-1",
        "what is held": b"blocks.",
        "a dtype": b"float32",
        "a method": b"gossip",
        "the platform": platform.system().lower().encode(),
    }


def found(packets: bytes) -> set[str]:
    return {what for what, needle in needles().items() if needle in packets}


def test_a_capture_shows_no_tensor_no_model_and_no_name(tmp_path: Path) -> None:
    packets = captured(tmp_path)
    assert len(packets) > 1_000_000, "the parameters passed here"
    assert b"_edge-swarm" in packets, "and so did mDNS"
    assert found(packets) == set()
    assert len(platform.node()) < 5 or platform.node().encode() not in packets, "shorter ones occur by chance"


def test_in_an_open_swarm_all_of_it_can_be_read(tmp_path: Path) -> None:
    """So the capture would have shown it."""
    assert found(captured(tmp_path, "--open")) >= {"a tensor of the model", "the model's name", "a device's name"}
