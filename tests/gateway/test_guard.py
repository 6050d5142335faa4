"""Who may ask a gateway: Host, Origin and token, on every method and path."""

from __future__ import annotations

import asyncio

import pytest

from swarm.errors import (
    UsageError,
)
from swarm.gateway.guard import Guard, is_loopback
from tests.gateway.fakes import INFER, FakePeer, ask, send, served

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
