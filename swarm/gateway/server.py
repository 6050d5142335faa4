"""The gateway: HTTP requests in, a peer's answers out.

Small requests are what it is built for: one dictionary finds the endpoint, and nothing beside the request's own task is
started for it.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError
from msgspec import Struct

from swarm import __version__
from swarm.background import logged
from swarm.errors import AddressInUse, BadInput, SwarmError, UsageError
from swarm.gateway.bodies import Bodies, Hold
from swarm.gateway.connections import Connections
from swarm.gateway.guard import Guard
from swarm.gateway.inference import infer
from swarm.gateway.protocol import HEADER_LENGTH, Text
from swarm.gateway.repository import Model, Repository, State, Wish
from swarm.gateway.routes import Endpoint, Route, route
from swarm.gateway.statistics import statistics
from swarm.gateway.statuses import COMMON, Reply, failed, refused, said
from swarm.peer import Peer
from swarm.types import Address

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_repository", "parameters", "statistics")
GRACE_S: Final = 1.0
"""How long requests may still take when the gateway ends; then they hear that it does."""
CLOSE_S: Final = 1.5
"""How long their answers may take to be sent."""
BACKLOG: Final = 512
MAX_WORDS: Final = 65536
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_Words = TypeVar("_Words", bound=Struct)


class LoadParameters(Struct):
    strategy: Text = "auto"
    goal: Text = "latency"
    weights: Text = "pretrained"


class LoadWords(Struct):
    """The body of a request to load a model."""

    parameters: LoadParameters | None = None


class IndexWords(Struct):
    """The body of a request for the repository's index."""

    ready: bool = False


class Gateway:
    """The Open Inference Protocol v2 on a peer, for as long as the `async with` lasts.

    :param host: where to listen: an address or a name of this device.
    :param port: 0 takes a free one; `address` says which.
    :param token: what clients have to send; without one only this device may be listened to.
    :param serve: models to load at once, in the background; the server is ready when all of them are.
    :param names: more names that clients reach this device under.
    :param on_problem: told, in a sentence, why a model cannot be served yet.
    :param on_failed: told why a model of `serve` never can be.
    :raises UsageError: the token is missing or weak, or there is no such address here.
    :raises AddressInUse: on entering, when the port belongs to another program.
    """

    def __init__(
        self,
        peer: Peer,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        token: str | None = None,
        serve: Sequence[str] = (),
        *,
        names: Iterable[str] = (),
        on_problem: Callable[[str], None] = lambda sentence: None,
        on_failed: Callable[[SwarmError], None] = lambda error: None,
        bodies: Bodies | None = None,
    ) -> None:
        self.address = Address(host, port)
        self._peer = peer
        self._guard = Guard(host, names, token)
        self._serve = tuple(dict.fromkeys(serve))
        self._on_problem = on_problem
        self._on_failed = on_failed
        self._bodies = bodies or Bodies()
        self._codes: Counter[int] = Counter()
        self._stack = AsyncExitStack()
        self._endpoints: dict[Endpoint, Callable[[Route, web.BaseRequest], Awaitable[Reply]]] = {
            Endpoint.SERVER: self._server,
            Endpoint.LIVE: self._live,
            Endpoint.READY: self._ready,
            Endpoint.INDEX: self._index,
            Endpoint.METRICS: self._metrics,
            Endpoint.METADATA: self._metadata,
            Endpoint.MODEL_READY: self._model_ready,
            Endpoint.STATISTICS: self._statistics,
            Endpoint.INFER: self._infer,
            Endpoint.LOAD: self._load,
            Endpoint.UNLOAD: self._unload,
        }

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def __aenter__(self) -> Gateway:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        self._repository = await self._stack.enter_async_context(Repository(self._peer))
        self._connections = Connections(self._handle)
        self._stack.push_async_callback(self._connections.shutdown, CLOSE_S)
        self._stack.push_async_callback(self._repository.farewell, GRACE_S)
        self._stack.callback(self._connections.pre_shutdown)
        listener = await self._listen()
        self._stack.callback(listener.close)
        self.address = Address(self.address.host, listener.sockets[0].getsockname()[1])
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        background = [tasks.create_task(logged(self._connections.watch))]
        for name in self._serve:
            keep = logged(self._repository.keep, name, Wish(), self._on_problem, self._on_failed)
            background.append(tasks.create_task(keep))
        self._stack.callback(lambda: [task.cancel() for task in background])

    async def _listen(self) -> asyncio.Server:
        host, port = self.address.host, self.address.port
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(self._connections, host, port, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"HTTP cannot listen at {self.address}: the port belongs to another program; choose another with "
                    "--http PORT, or --http :0 for any."
                ) from error
            raise UsageError(f"HTTP cannot listen at {self.address}: {error.strerror or error}.") from error

    # A request's way

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        reply = await self._reply(request)
        self._codes[reply.status] += 1
        response = web.Response(status=reply.status, body=reply.body, headers={**reply.headers, **COMMON})
        if reply.closes:
            response.force_close()
        return response

    async def _reply(self, request: web.BaseRequest) -> Reply:
        refusal = self._guard.refusal(request.headers)
        if refusal is not None:
            return refusal
        found = route(request.method, request.raw_path)
        if isinstance(found, Reply):
            return found
        try:
            return await self._endpoints[found.endpoint](found, request)
        except SwarmError as error:
            return failed(error)

    async def _infer(self, place: Route, request: web.BaseRequest) -> Reply:
        model = self._repository.find(place.model)
        if model is None or model.state is not State.READY:
            return _not_ready(place.model, model)
        headers = request.headers
        length, encoding = request.content_length, headers.get("Content-Encoding")
        if (refusal := self._bodies.refusal(length, encoding)) is not None:
            return refusal
        hold = self._bodies.hold()
        try:
            body = await self._body(request, length, encoding, hold)
            return body if isinstance(body, Reply) else await self._answer(model, body, headers.get(HEADER_LENGTH))
        finally:
            hold.release()

    async def _answer(self, model: Model, body: bytes | bytearray, header_length: str | None) -> Reply:
        if model.session is None or model.signature is None or model.state is not State.READY:
            return _not_ready(model.name, model)  # unloaded while the body came
        began_ns, answered = model.begin(), False
        try:
            reply = await infer(model.session, model.signature, body, header_length)
            answered = True
            return reply
        finally:
            model.end(began_ns, answered=answered)

    async def _body(self, request: web.BaseRequest, length: int | None, encoding: str | None, hold: Hold) -> Any:
        if "Expect" in request.headers and request.transport is not None:
            request.transport.write(_CONTINUE)  # a client with a large body waits for this, and saw no refusal
        try:
            return await self._bodies.read(request.content, length, encoding, hold)
        except (web.RequestPayloadError, HttpProcessingError):
            return refused(400, "The body is not sent as HTTP wants it.", closes=True)

    async def _words(self, request: web.BaseRequest, kind: type[_Words]) -> _Words | Reply:
        """The small JSON body of what is no inference; nothing at all is the default."""
        if (request.content_length or 0) > MAX_WORDS:
            return refused(413, f"Such a request may have {MAX_WORDS} bytes.", closes=True)
        hold = self._bodies.hold()
        try:
            body = await self._body(request, request.content_length, None, hold)
        finally:
            hold.release()
        if isinstance(body, Reply):
            return body
        try:
            return msgspec.json.decode(body, type=kind) if body.strip() else kind()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"The request's JSON makes no sense: {error}.") from None

    # Endpoints

    async def _server(self, place: Route, request: web.BaseRequest) -> Reply:
        return said({"name": "swarm", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, place: Route, request: web.BaseRequest) -> Reply:
        return said({"live": True})

    async def _ready(self, place: Route, request: web.BaseRequest) -> Reply:
        ready = all(self._repository.is_ready(name) for name in self._serve)
        return said({"ready": ready}, 200 if ready else 503)

    async def _metadata(self, place: Route, request: web.BaseRequest) -> Reply:
        model = self._repository.find(place.model)
        if model is None or model.signature is None:
            return _not_ready(place.model, model)
        return said(model.signature.metadata())

    async def _model_ready(self, place: Route, request: web.BaseRequest) -> Reply:
        model = self._repository.find(place.model)
        if model is None:
            return _not_ready(place.model, model)
        ready = model.state is State.READY
        return said({"name": place.model, "ready": ready}, 200 if ready else 503)

    async def _statistics(self, place: Route, request: web.BaseRequest) -> Reply:
        if not place.model:
            return said(statistics(self._repository.models()))
        model = self._repository.find(place.model)
        return said(statistics([model])) if model is not None else _not_ready(place.model, model)

    async def _index(self, place: Route, request: web.BaseRequest) -> Reply:
        words = await self._words(request, IndexWords)
        if isinstance(words, Reply):
            return words
        index = self._repository.index()
        return said([row for row in index if row["state"] == State.READY] if words.ready else index)

    async def _load(self, place: Route, request: web.BaseRequest) -> Reply:
        words = await self._words(request, LoadWords)
        if isinstance(words, Reply):
            return words
        wish = words.parameters or LoadParameters()
        await self._repository.load(place.model, Wish(wish.strategy, wish.goal, wish.weights))
        return said({"name": place.model, "state": State.READY})

    async def _unload(self, place: Route, request: web.BaseRequest) -> Reply:
        if not await self._repository.unload(place.model):
            return _not_ready(place.model, None)
        return said({"name": place.model, "state": State.UNAVAILABLE})

    async def _metrics(self, place: Route, request: web.BaseRequest) -> Reply:
        from swarm.gateway.exposition import Gauges, encoded, families

        states = Counter(model.state.value for model in self._repository.models())
        gauges = Gauges(self._peer.view(), states, len(self._connections.connections), dict(self._codes))
        given = families(self._peer.metrics, gauges)
        body, content_type = await asyncio.to_thread(encoded, given, request.headers.get("Accept", ""))
        return Reply(200, body, {"Content-Type": content_type})


def _not_ready(name: str, model: Model | None) -> Reply:
    if model is None:
        return refused(
            404, f"{name} is not loaded here; load it with POST /v2/repository/models/{name}/load.", closes=True
        )
    why = f": {model.reason}" if model.reason else "."
    return refused(503, f"{name} is {model.state.value.lower()}{why}", {"Retry-After": "1"}, closes=True)
