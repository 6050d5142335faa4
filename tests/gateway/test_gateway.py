"""A real gateway on loopback: what it answers, and what it says to requests that make no sense."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from time import monotonic
from typing import Any

import numpy as np
import pytest

from swarm.errors import (
    AddressInUse,
    DeadlineExceeded,
    NoFit,
    Overloaded,
    PeerLost,
    SwarmError,
    UsageError,
)
from swarm.gateway import Gateway
from swarm.gateway.bodies import Bodies
from tests.gateway.fakes import INFER, MAX_BATCH, FakePeer, ask, binary, numbers, response, send, served, until

# Answers


async def test_every_endpoint_says_what_the_protocol_says() -> None:
    async with served(FakePeer()) as gateway:
        assert (await ask(gateway, "GET", "/v2")).json["name"] == "swarm"
        assert (await ask(gateway, "GET", "/v2/health/live")).json == {"live": True}
        assert (await ask(gateway, "GET", "/v2/health/ready")).json == {"ready": True}
        assert (await ask(gateway, "GET", "/v2/models/toy/ready")).json == {"name": "toy", "ready": True}
        metadata = (await ask(gateway, "GET", "/v2/models/toy/versions/1")).json
        assert metadata["inputs"] == [
            {"name": "input", "datatype": "FP32", "shape": [-1, 1, 2, 2]},
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
        ]
        assert [output["shape"] for output in metadata["outputs"]] == [[-1, 6], [-1, 5], [-1, 5]]
        index = (await ask(gateway, "POST", "/v2/repository/index")).json
        assert index == [{"name": "toy", "version": "1", "state": "READY", "reason": ""}]
        answer = (await ask(gateway, "POST", INFER, numbers() | {"id": "seven"})).json
        assert answer["id"] == "seven"
        assert answer["outputs"][0]["data"] == [4.0, 8.0, 12.0, 16.0, 20.0, 24.0]
        [stats] = (await ask(gateway, "GET", "/v2/models/stats")).json["model_stats"]
        assert stats["inference_stats"]["success"]["count"] == 1


async def test_raw_bytes_both_ways_and_many_requests_on_one_connection() -> None:
    body, length = binary(np.ones((2, 1, 2, 2), np.float32), parameters={"binary_data_output": True})
    async with served(FakePeer()) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        for _ in range(3):
            writer.write(f"{head}Inference-Header-Content-Length: {length}\r\n\r\n".encode() + body)
            answer = await response(reader)
            cut = int(answer.headers["inference-header-content-length"])
            assert json.loads(answer.body[:cut])["outputs"][0]["shape"] == [2, 6]
            np.testing.assert_array_equal(np.frombuffer(answer.body[cut:], np.float32)[:6], np.arange(1, 7) * 4)
        writer.close()


async def test_more_rows_than_a_plan_takes_go_in_pieces() -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        rows = 2 * MAX_BATCH + 1
        answer = (await ask(gateway, "POST", INFER, numbers(rows))).json
        assert answer["outputs"][0]["shape"] == [rows, 6]
        assert peer.session.asked == [MAX_BATCH, MAX_BATCH, 1]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_packed_bodies_are_unpacked_within_bounds(encoding: str, pack: Any) -> None:
    good, bomb = pack(json.dumps(numbers()).encode()), pack(b" " * 3_000_000)
    async with served(FakePeer(), bodies=Bodies(1_000_000)) as gateway:
        assert (await ask(gateway, "POST", INFER, good, Content_Encoding=encoding)).status == 200
        assert len(bomb) < 10_000
        assert (await ask(gateway, "POST", INFER, bomb, Content_Encoding=encoding)).status == 413
        for broken in (good[:-3], good + b"more", b"plain"):
            assert (await ask(gateway, "POST", INFER, broken, Content_Encoding=encoding)).status == 400
        assert (await ask(gateway, "POST", INFER, good, Content_Encoding="br")).status == 415


async def test_the_timeout_of_a_request_is_its_deadline() -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        for timeout_us, wanted in ((1_500_000, 1.5), (0, 60.0), (10**12, 600.0)):
            await ask(gateway, "POST", INFER, numbers() | {"parameters": {"timeout": timeout_us}})
            assert peer.session.deadlines[-1] == pytest.approx(wanted, abs=0.1)


# What makes no sense


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", numbers(name="x"), numbers(shape=[1, 2, 2]), numbers(data=[1])]
)
async def test_bad_requests_are_the_protocols_error(body: Any) -> None:
    async with served(FakePeer()) as gateway:
        found = await ask(gateway, "POST", INFER, body)
        assert found.status == 400
        assert found.error


async def test_raw_bytes_that_are_cut_off() -> None:
    body, length = binary(np.ones((2, 1, 2, 2), np.float32))
    async with served(FakePeer()) as gateway:
        for cut in (body[:-1], body + b"x", body[: int(length)]):
            found = await ask(gateway, "POST", INFER, cut, Inference_Header_Content_Length=length)
            assert (found.status, "should follow" in found.error) == (400, True)
        found = await ask(gateway, "POST", INFER, body, Inference_Header_Content_Length="9999")
        assert found.status == 400


async def test_an_input_that_is_no_number_is_the_clients_fault() -> None:
    body, length = binary(np.full((1, 1, 2, 2), np.nan, np.float32))
    async with served(FakePeer()) as gateway:
        found = await ask(gateway, "POST", INFER, body, Inference_Header_Content_Length=length)
        assert (found.status, "no numbers" in found.error) == (400, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("a"), 400),
        (Overloaded("a"), 503),
        (PeerLost("a"), 503),
        (NoFit("a"), 503),
        (DeadlineExceeded("a"), 504),
        (SwarmError("a"), 500),
    ],
)
async def test_errors_of_the_swarm_have_their_status(error: SwarmError, status: int) -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        peer.session.failure = error
        found = await ask(gateway, "POST", INFER, numbers())
        assert (found.status, found.error) == (status, "a")
        assert ("retry-after" in found.headers) == isinstance(error, Overloaded)


async def test_unknown_models_paths_and_methods() -> None:
    async with served(FakePeer()) as gateway:
        for path in ("/v2/models/other", "/v2/models/toy/versions/2", "/v2/models/other/ready", "/v3", "/"):
            assert (await ask(gateway, "GET", path)).status == 404
        assert (await ask(gateway, "POST", "/v2/models/other/infer", numbers())).status == 404
        found = await ask(gateway, "GET", INFER)
        assert (found.status, found.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET /v2 HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 20000])
async def test_what_is_no_http_is_the_protocols_error_too(raw: bytes) -> None:
    async with served(FakePeer()) as gateway:
        found = await send(gateway, raw)
        assert (found.status, found.headers["server"]) == (400, "swarm")
        assert found.error


# Beside


async def test_metrics_are_what_prometheus_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    peer = FakePeer()
    peer.metrics.answer_s.observe("vit", 0.002)
    peer.metrics.answer_s.observe("vit", 100.0)
    peer.metrics.batch_rows.observe("vit", 3)
    peer.metrics.fail(peer.metrics.refused, 'od"d\n', "overloaded")
    async with served(peer) as gateway:
        await ask(gateway, "GET", "/nothing")
        found = await ask(gateway, "GET", "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(found.body.decode())}
        values = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
        assert values["swarm_requests_total", ("model", "vit"), ("outcome", "ok")] == 2
        assert values["swarm_request_seconds_bucket", ("le", "0.0025"), ("model", "vit")] == 1
        assert values["swarm_request_seconds_bucket", ("le", "60.0"), ("model", "vit")] == 1
        assert values["swarm_request_seconds_bucket", ("le", "+Inf"), ("model", "vit")] == 2
        assert values["swarm_request_seconds_sum", ("model", "vit")] == pytest.approx(100.002)
        assert values["swarm_steps_refused_total", ("code", "overloaded"), ("model", 'od"d\n')] == 1
        assert values["swarm_peers", ("state", "alive")] == 1
        assert values["swarm_http_requests_total", ("code", "404")] == 1
        assert values["swarm_models", ("state", "READY")] == 1
        assert values["process_resident_memory_bytes",] > 1e6
        assert all(family.documentation for family in families.values())
        modern = await ask(gateway, "GET", "/metrics", Accept="application/openmetrics-text;version=1.0.0")
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        assert modern.body.endswith(b"# EOF\n")


async def test_a_port_that_is_taken_and_an_address_that_is_not_here() -> None:
    async with served(FakePeer()) as gateway:
        with pytest.raises(AddressInUse, match="--http"):
            async with Gateway(FakePeer(), port=gateway.address.port):  # type: ignore[arg-type]
                pass
    with pytest.raises(UsageError, match="cannot listen"):
        async with Gateway(FakePeer(), "192.0.2.1", 0, "0123456789abcdef"):  # type: ignore[arg-type]
            pass


async def test_the_end_does_not_wait_for_idle_clients() -> None:
    async with served(FakePeer()) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
        await ask(gateway, "GET", "/v2")
        began = monotonic()
    assert monotonic() - began < 1
    writer.close()


async def test_the_end_cancels_requests_that_do_not_come_to_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.gateway.server.CLOSE_S", 0.2)
    peer = FakePeer()
    async with served(peer) as gateway:
        peer.session.gate = asyncio.Event()
        request = asyncio.create_task(ask(gateway, "POST", INFER, numbers()))
        await until(lambda: peer.session.waiting == 1)
        began = monotonic()
    assert monotonic() - began < 2
    assert peer.session.cancelled == 1
    assert peer.session.is_closed
    with pytest.raises(asyncio.IncompleteReadError):
        await request
