"""Models of a gateway come and go: loaded once, unloaded when their requests have ended, tried again."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from swarm.errors import (
    CannotSplit,
    NoFit,
    SwarmError,
    UnknownModel,
    WeightsError,
)
from swarm.gateway import Gateway
from tests.gateway.fakes import INFER, FakePeer, ask, numbers, served, until


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
