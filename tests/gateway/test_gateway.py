"""A real gateway on loopback: what it answers, what it refuses before it reads it, what clients cannot do to it."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from time import monotonic
from typing import Any, cast

import numpy as np
import pytest

from swarm.errors import (
    AddressInUse,
    CannotSplit,
    DeadlineExceeded,
    NoFit,
    Overloaded,
    PeerLost,
    SwarmError,
    UnknownModel,
    UsageError,
    WeightsError,
)
from swarm.gateway import Gateway
from swarm.gateway.bodies import Bodies
from swarm.gateway.connections import Connections
from swarm.gateway.guard import Guard, is_loopback
from tests.gateway.fakes import MAX_BATCH, FakePeer, ask, binary, numbers, response, send, served

INFER = "/v2/models/toy/infer"
TOKEN = "0123456789abcdef"
ENDPOINTS = [
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/toy"),
    ("GET", "/v2/models/toy/ready"),
    ("GET", "/v2/models/toy/stats"),
    ("POST", INFER),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/toy/load"),
    ("POST", "/v2/repository/models/toy/unload"),
    ("GET", "/metrics"),
    ("GET", "/nothing"),
    ("OPTIONS", "/v2"),
    ("DELETE", "/v2/models/toy"),
]


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


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


# Too much, too slow, gone


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    async with served(FakePeer()) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 * 2**20}\r\n\r\n"
        found = await send(gateway, head.encode())  # not a byte of the body
        assert (found.status, "67108864" in found.error) == (413, True)


async def test_a_client_that_asks_first_need_not_send_a_large_body() -> None:
    async with served(FakePeer(), bodies=Bodies(1000)) as gateway:
        ask_first = "Host: localhost\r\nExpect: 100-continue\r\n"
        found = await send(gateway, f"POST {INFER} HTTP/1.1\r\n{ask_first}Content-Length: 1001\r\n\r\n".encode())
        assert found.status == 413
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
        body = json.dumps(numbers()).encode()
        writer.write(f"POST {INFER} HTTP/1.1\r\n{ask_first}Content-Length: {len(body)}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await response(reader)).status == 200
        writer.close()


async def test_a_body_of_unknown_length_is_bounded_while_it_is_read() -> None:
    async with served(FakePeer(), bodies=Bodies(100_000)) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        assert (await send(gateway, head + chunk * 2)).status == 413
        body = json.dumps(numbers()).encode()
        found = await send(gateway, head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert found.status == 200
        for broken in (b"xyz\r\n", b"5\r\n123456789\r\n"):
            assert (await send(gateway, head + broken)).status == 400


async def test_bodies_share_the_memory() -> None:
    peer = FakePeer()
    async with served(peer, bodies=Bodies(1000, 2000)) as gateway:
        peer.session.gate = asyncio.Event()
        slow = [asyncio.create_task(ask(gateway, "POST", INFER, numbers() | {"id": "x" * 250})) for _ in range(5)]
        await until(lambda: peer.session.waiting == 5)
        found = await ask(gateway, "POST", INFER, numbers() | {"id": "x" * 250})
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        peer.session.gate.set()
        assert {(await task).status for task in slow} == {200}
        assert (await ask(gateway, "POST", INFER, numbers())).status == 200


async def test_a_body_that_does_not_come_in_time() -> None:
    async with served(FakePeer(), bodies=Bodies(read_s=0.2)) as gateway:
        began = monotonic()
        found = await send(
            gateway, f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{{".encode()
        )
        assert found.status == 408
        assert monotonic() - began < 2


async def test_a_head_that_does_not_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.gateway.connections.IDLE_S", 0.3)
    async with served(FakePeer()) as gateway:
        for begun in (b"", b"GET /v2 HTTP/1.1\r\nHost: loc"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_a_client_that_does_not_read_is_dropped() -> None:
    gone = asyncio.Event()

    async def flood(request: Any) -> Any:
        from aiohttp import web

        try:
            return web.Response(body=b"x" * 50_000_000)
        finally:
            gone.set()

    connections = Connections(flood, stuck_s=0.4)
    listener = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    watching = asyncio.create_task(connections.watch())
    _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await gone.wait()
    assert len(connections.connections) == 1, "its answer is still on the way"
    await until(lambda: not connections.connections)
    assert not watching.done()
    watching.cancel()
    writer.close()
    listener.close()


async def test_only_so_many_connections() -> None:
    async with served(FakePeer()) as gateway:
        gateway._connections._most = 3
        held = [await asyncio.open_connection("127.0.0.1", gateway.address.port) for _ in range(3)]
        found = await send(gateway, b"")
        assert (found.status, found.error[:8]) == (503, "Too many")
        held.pop()[1].close()
        await until(lambda: len(gateway._connections.connections) < 3)
        assert (await ask(gateway, "GET", "/v2")).status == 200
        for _, writer in held:
            writer.close()


async def test_a_client_that_vanishes_cancels_its_request() -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        peer.session.gate = asyncio.Event()
        for abruptly in (True, False):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
            body = json.dumps(numbers()).encode()
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(lambda: peer.session.waiting == 1)
            writer.transport.abort() if abruptly else writer.close()
            await until(lambda: peer.session.waiting == 0)
        assert peer.session.cancelled == 2
        assert gateway._bodies.free == Bodies().free


# Who may ask


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_host_origin_and_token_are_looked_at_everywhere(method: str, path: str) -> None:
    peer = FakePeer()
    async with served(peer, token=TOKEN) as gateway:
        peer.session.gate = asyncio.Event()
        peer.session.gate.set()
        ours = f"http://127.0.0.1:{gateway.address.port}"
        bearer = f"Bearer {TOKEN}"
        foreign = [
            ({"Host": "evil.example"}, 403),
            ({"Host": "127.0.0.1.evil.example"}, 403),
            ({"Host": "evil@127.0.0.1"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": ours + "0"}, 403),
            ({"Origin": "http://localhost"}, 403),
            ({"Sec_Fetch_Site": "cross-site"}, 403),
            ({"Authorization": ""}, 401),
            ({"Authorization": TOKEN}, 401),
            ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
            ({"Authorization": f"Bearer {TOKEN}é"}, 401),
            ({"Authorization": f"Basic {TOKEN}"}, 401),
        ]
        for headers, status in foreign:
            found = await ask(gateway, method, path, **({"Authorization": bearer} | headers))
            assert (found.status, headers) == (status, headers)
            assert found.error
        assert [load[0] for load in peer.loads] == ["toy"]
        assert not peer.session.asked
        assert not peer.session.is_closed
        found = await ask(gateway, method, path, Authorization=bearer, Origin=ours, Sec_Fetch_Site="same-origin")
        assert found.status not in (401, 403)


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n", "Host: evil.example\r\n"])
async def test_who_names_no_host_or_two_gets_nothing(hosts: str) -> None:
    async with served(FakePeer()) as gateway:
        for version in ("1.1", "1.0"):
            assert (await send(gateway, f"GET /v2 HTTP/{version}\r\n{hosts}\r\n".encode())).status in (400, 403)


@pytest.mark.parametrize(
    ("host", "value", "may"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST:1234", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "192.168.1.20:8000", False),
        ("127.0.0.1", "attic.local", True),
        ("127.0.0.1", "attic.local.", True),
        ("127.0.0.1", "localhost:x", False),
        ("127.0.0.1", "localhost:80 x", False),
        ("127.0.0.1", "[::1", False),
        ("127.0.0.1", "", False),
        ("192.168.1.20", "192.168.1.20:8000", True),
        ("192.168.1.20", "192.168.1.21:8000", False),
        ("0.0.0.0", "192.168.1.20:8000", True),
        ("0.0.0.0", "evil.example:8000", False),
        ("::", "[fe80::1]:8000", True),
    ],
)
def test_a_server_answers_to_its_own_names(host: str, value: str, may: bool) -> None:
    guard = Guard(host, ["attic.local"], TOKEN)
    for _ in range(2):
        assert (guard.refusal({"Host": value, "Authorization": f"bearer {TOKEN}"}) is None) == may


@pytest.mark.parametrize(
    ("host", "token"), [("0.0.0.0", None), ("192.168.1.2", None), ("attic", None), ("127.0.0.1", "short")]
)
def test_others_need_a_token_that_is_one(host: str, token: str | None) -> None:
    with pytest.raises(UsageError, match="openssl rand -hex 16"):
        Guard(host, (), token)


def test_loopback_is_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5


# Models come and go


async def test_loading_is_done_once_for_all_who_ask() -> None:
    peer = FakePeer()
    async with served(peer, serve=()) as gateway:
        peer.gate = asyncio.Event()
        body = {"parameters": {"strategy": "local", "goal": "memory", "weights": "random:3"}}
        loads = [asyncio.create_task(ask(gateway, "POST", "/v2/repository/models/vit/load", body)) for _ in range(3)]
        await until(lambda: peer.loads)
        assert (await ask(gateway, "POST", "/v2/repository/index")).json[0]["state"] == "LOADING"
        assert (await ask(gateway, "GET", "/v2/models/vit/ready")).status == 503
        assert (await ask(gateway, "POST", "/v2/models/vit/infer", numbers())).status == 503
        peer.gate.set()
        assert [(await load).status for load in loads] == [200] * 3
        assert (await ask(gateway, "POST", "/v2/repository/models/vit/load", body)).status == 200
        assert peer.loads == [("vit", "local", "memory", "random:3")]
        assert (await ask(gateway, "POST", "/v2/repository/models/vit/load")).status == 400  # with another wish


@pytest.mark.parametrize("weights", ["/etc/passwd", "weights.safetensors", "random:x", "random:", "pretrained\n"])
async def test_weights_from_the_network_are_no_files(weights: str) -> None:
    peer = FakePeer()
    async with served(peer, serve=()) as gateway:
        body = {"parameters": {"weights": weights}}
        assert (await ask(gateway, "POST", "/v2/repository/models/vit/load", body)).status == 400
        assert not peer.loads


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnknownModel("no such"), 404), (CannotSplit("no"), 400), (NoFit("small"), 503), (WeightsError("x"), 503)],
)
async def test_a_load_that_fails_says_why_and_may_be_tried_again(error: SwarmError, status: int) -> None:
    peer = FakePeer()
    peer.errors["vit"] = error
    async with served(peer, serve=()) as gateway:
        found = await ask(gateway, "POST", "/v2/repository/models/vit/load", {})
        assert (found.status, found.error) == (status, str(error))
        [row] = (await ask(gateway, "POST", "/v2/repository/index")).json
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", str(error))
        assert (await ask(gateway, "POST", "/v2/repository/index", {"ready": True})).json == []
        peer.errors.clear()
        assert (await ask(gateway, "POST", "/v2/repository/models/vit/load")).status == 200


async def test_unloading_lets_requests_end() -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        peer.session.gate = asyncio.Event()
        request = asyncio.create_task(ask(gateway, "POST", INFER, numbers()))
        await until(lambda: peer.session.waiting == 1)
        unloads = [asyncio.create_task(ask(gateway, "POST", "/v2/repository/models/toy/unload")) for _ in range(2)]
        await until(lambda: gateway._repository.index()[0]["state"] == "UNLOADING")
        assert (await ask(gateway, "POST", INFER, numbers())).status == 503
        assert (await ask(gateway, "POST", "/v2/repository/models/toy/load")).status == 503
        assert not peer.session.is_closed
        peer.session.gate.set()
        assert [(await unload).status for unload in unloads] == [200, 200]
        assert (await request).status == 200
        await until(lambda: peer.session.is_closed)
        assert (await ask(gateway, "POST", "/v2/repository/models/toy/unload")).status == 404


async def test_unloading_ends_a_load() -> None:
    peer = FakePeer()
    peer.gate = asyncio.Event()
    async with served(peer, serve=()) as gateway:
        load = asyncio.create_task(ask(gateway, "POST", "/v2/repository/models/vit/load"))
        await until(lambda: peer.loads)
        assert (await ask(gateway, "POST", "/v2/repository/models/vit/unload")).status == 200
        assert (await load).status == 503
        assert (await ask(gateway, "POST", "/v2/repository/index")).json == []


async def test_only_so_many_models() -> None:
    async with served(FakePeer(), serve=("a", "b")) as gateway:
        gateway._repository._most = 2
        found = await ask(gateway, "POST", "/v2/repository/models/c/load")
        assert (found.status, "unload one" in found.error) == (503, True)
        await ask(gateway, "POST", "/v2/repository/models/a/unload")
        assert (await ask(gateway, "POST", "/v2/repository/models/c/load")).status == 200


async def test_a_model_to_be_served_is_tried_until_the_others_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.gateway.repository.RETRY_S", 0.05)
    peer, problems, failures = FakePeer(), list[str](), list[SwarmError]()
    peer.errors = {"toy": NoFit("too few"), "never": UnknownModel("no such model")}
    tells: Any = {"on_problem": problems.append, "on_failed": failures.append}
    async with Gateway(cast(Any, peer), port=0, serve=["toy", "never"], **tells) as gateway:
        await until(lambda: len(peer.loads) >= 3)
        assert (await ask(gateway, "GET", "/v2/health/ready")).status == 503
        del peer.errors["toy"]
        await until(lambda: gateway._repository.is_ready("toy"))
        assert (await ask(gateway, "GET", "/v2/health/ready")).json == {"ready": False}
    assert problems[0] == "toy is not served yet, and tried again: too few"
    assert list(map(str, failures)) == ["no such model"]
    assert peer.session.is_closed


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
        async with Gateway(FakePeer(), "192.0.2.1", 0, TOKEN):  # type: ignore[arg-type]
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
