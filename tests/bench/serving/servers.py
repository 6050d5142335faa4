"""The servers and the load processes of a run, each begun once and kept for all its stages."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.secret import Secret
from tests.bench.serving.child import Child
from tests.bench.serving.environment import environment

START_S = 240.0
ROOM_S = 60.0
"""What a command may take beyond what it was told to."""
HOME = "tests.bench.serving"


@dataclass
class Server:
    """One that answers HTTP, or the peer that answers natively."""

    name: str
    child: Child
    port: int = 0
    address: str = ""
    pauses: bool = True
    """May be stopped while another one is measured. A peer may not: its leases would lapse."""


@dataclass
class Bench:
    """Starts what is asked for and remembers it; everything ends with `stack`."""

    stack: ExitStack
    folder: Path
    cache: Path
    answers: list[int] = field(default_factory=list)
    _servers: dict[str, Server] = field(default_factory=dict)
    _children: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str, argv: list[str]) -> Child:
        home = self.folder / name
        home.mkdir()
        env = {
            "HOME": str(home),
            "TMPDIR": str(home),
            "SWARM_HOME": str(home),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        return self.stack.enter_context(Child(argv, env, home / "log"))

    def program(self, name: str) -> Child:
        """One of ours that takes commands: `alone` or `caller`."""
        if name not in self._children:
            self._children[name] = self.start(name, _own(name))
        return self._children[name]

    def alone(self) -> Child:
        is_new = "alone" not in self._children
        child = self.program("alone")
        if is_new:
            child.line(START_S)
            self.answers = child.ask({"do": "answers"}, ROOM_S)["answer"]
        return child

    def peer(self) -> Server:
        """`swarm join`, without HTTP."""
        if "peer" not in self._servers:
            child = self.start("peer", [*_join("peer")])
            self._servers["peer"] = Server("peer", child, address=child.line(START_S)["address"], pauses=False)
        return self._servers["peer"]

    def asker(self) -> Child:
        """The program with a peer embedded, its model loaded on `peer`."""
        if "native" not in self._children:
            self.alone()
            first = {"address": self.peer().address, "peer": "peer", "answers": self.answers}
            child = self.program("native")
            child.ask(first, START_S)
        return self._children["native"]

    def web(self, name: str) -> Server:
        """A server that answers HTTP: `swarm`, `mosec`, `LitServe` or `trivial`, once it has answered."""
        if name not in self._servers:
            self.alone()
            server = self._servers[name] = self._begin(name)
            if name != "trivial":
                self._await(server)
        return self._servers[name]

    def _begin(self, name: str) -> Server:
        port = free_port()
        if name == "trivial":
            child = self.start(name, _own(name))
            return Server(name, child, child.line(START_S)["port"])
        if name == "swarm":
            argv = [*_join("served"), "--http", f"127.0.0.1:{port}", "--serve", "fashion-vit"]
            return Server(name, self.start(name, argv), port, pauses=False)
        python = str(environment(self.cache))
        argv = [python, "-P", "-m", f"{HOME}.{name.lower()}_server"]
        own = ["--port", str(port), "--address", "127.0.0.1", "--log-level", "error"]
        return Server(name, self.start(name, [*argv, *(own if name == "mosec" else [str(port)])]), port)

    def _await(self, server: Server) -> None:
        deadline = time.monotonic() + START_S
        wish = {"do": "probe", "server": server.name, "port": server.port}
        while not (answer := self.program("caller").ask(wish, ROOM_S))["ready"]:
            if time.monotonic() > deadline or not server.child.is_alive:
                raise RuntimeError(f"{server.name} does not answer: {answer['why']}\n{server.child.last_words()}")
            time.sleep(0.5)

    def call(self, server: Server, do: str, seconds: float, **more: Any) -> dict[str, Any]:
        """Have the load generator ask it."""
        wish = {"do": do, "server": server.name, "port": server.port, "answers": self.answers, "seconds": seconds}
        return self.program("caller").ask(wish | more, seconds + ROOM_S)

    @contextmanager
    def only(self, server: Server) -> Iterator[None]:
        """Let the others rest."""
        others = [one for one in self._servers.values() if one is not server and one.pauses]
        for one in others:
            one.child.pause()
        try:
            yield
        finally:
            for one in others:
                one.child.resume()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def secret() -> None:
    """All peers of this run are of one swarm, and nobody else is."""
    os.environ["SWARM_SECRET"] = Secret.new().reveal()


def _own(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", f"{HOME}.{name}"]


def _join(name: str) -> list[str]:
    argv = [sys.executable, "-P", "-m", "swarm", "join", "--json", "--name", name, "--threads", "1"]
    return [*argv, "--interface", "127.0.0.1", "--port", "0", "--no-mdns"]
