"""The subcommands. Their flags can also be set by `SWARM_…` or in the settings file; flags win."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import click

from swarm.cli import settings
from swarm.cli.flags import BATCHING, BATCHING_FLAGS, COMPUTE, GROUPS, HTTP, NETWORK, OUTPUT, TRUST, Output, flag
from swarm.cli.kinds import ADDRESSES, PeerName, Seconds

if TYPE_CHECKING:
    from swarm.batching import Batching
    from swarm.peer import Peer


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.option("--version", is_flag=True, help="Show the version.")
@click.pass_context
def app(context: click.Context, version: bool) -> None:
    """Run one model together on the devices of your network."""
    if version:
        from swarm import __version__

        click.echo(f"swarm {__version__}")
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())
    else:
        context.default_map = settings.defaults(app.commands)
        _speak_as_set(context)


def _speak_as_set(context: click.Context) -> None:
    """As the settings file says for the command that comes next, even before its flags are read."""
    chosen = (context.default_map or {}).get(context.invoked_subcommand or "", {})
    output = context.ensure_object(Output)
    output.json = output.json or chosen.get("json", False)
    output.use_debug(output.debug or chosen.get("debug", False))


@app.command(short_help="Put this device in the swarm until Ctrl-C.")
@flag("--name", "What to call this device; its host name by default.", type=PeerName())
@flag("--port", "TCP port; 4747, or any free one when that is taken, by default.", type=click.IntRange(0, 65535))
@NETWORK
@TRUST
@flag("--code", "The code that `swarm invite` shows on a device that is in the swarm.")
@flag("--new", "Begin a swarm, though another one is here.", is_flag=True)
@flag("--new-identity", "Take a new key and id, for a device whose configuration was copied.", is_flag=True)
@flag("--memory", "Most bytes of models to hold in memory.", metavar="BYTES", type=click.IntRange(min=0))
@flag("--device", "Where parts run: auto is the best that is here; cpu, cuda, cuda:1, mps…", default="auto")
@COMPUTE
@BATCHING
@HTTP
@OUTPUT
def join(name: str | None, code: str | None, new: bool, memory: int | None, json: bool, **common: Any) -> None:
    """Put this device in the swarm until Ctrl-C; the first one begins it, others need a code."""
    from swarm.cli import entry
    from swarm.cli import http as gateway
    from swarm.cli import join as command

    flags = ("http", "http_token", "http_token_file", "http_name", "serve")
    wish = entry.Wish(
        code=code,
        new=new,
        name=name,
        http=gateway.asked(**{name: common.pop(name) for name in flags}),
        **{key: common[key] for key in ("secret_file", "open", "interface", "peer", "no_mdns", "forget")},
    )

    batching = _batching(**{key: common.pop(key) for key in BATCHING_FLAGS})

    def make(**changes: Any) -> Peer:
        return _peer(name, memory_bytes=memory, batching=batching, **(common | changes))

    command.run(make, wish, device=common["device"], as_json=json)


@app.command(short_help="Show a code that lets one more device in.")
@flag("--port", "TCP port; 4748, or any free one when that is taken, by default.", type=click.IntRange(0, 65535))
@flag("--interface", "Local IP address to use; repeat for more.", metavar="IP", multiple=True, type=ADDRESSES)
@flag("--no-mdns", "Do not announce the invitation by multicast.", is_flag=True)
@flag("--forget", "Do not tell the guest of last-known peers.", is_flag=True)
@flag("--secret-file", "File that holds the swarm's secret, for fleets.", metavar="FILE")
@OUTPUT
def invite(json: bool, **wish: Any) -> None:
    """Show a code that lets one more device in; it holds for two minutes and three tries."""
    from swarm.cli import invite as command

    command.run(**wish, as_json=json)


@app.command(short_help="Show where the swarm's secret is, or change it.")
@click.argument("action", type=click.Choice(["show", "rotate"]))
@flag("--reveal", "With show: print the secret itself.", is_flag=True)
@flag("--without", "With rotate: a peer that does not get the new one; repeat for more.", metavar="NAME", multiple=True)
@flag("--yes", "With rotate: do not ask.", is_flag=True)
@flag("--wait", "With rotate: seconds to look for peers.", type=Seconds(), default=3.0)
@NETWORK
@OUTPUT
def secret(
    action: str, json: bool, reveal: bool, without: tuple[str, ...], yes: bool, wait: float, **more: Any
) -> None:
    """Show where the swarm's secret is, or rotate it, which puts out the devices that do not get the new one."""
    from swarm.cli import secret as command

    if action == "show":
        command.show_secret(reveal=reveal, as_json=json)
    else:
        command.rotate(lambda old: _client(secret=old, **more), list(without), wait, yes=yes, as_json=json)


@app.command()
@flag("--wait", "Seconds to look for peers.", type=Seconds(), default=2.0)
@NETWORK
@TRUST
@OUTPUT
def status(wait: float, json: bool, **common: Any) -> None:
    """Show who is in the swarm now, and what each holds."""
    from swarm.cli import status as command

    command.run(_client(**common), wait, as_json=json)


@app.command()
@flag("--wait", "Seconds to look for peers.", type=Seconds(), default=2.0)
@NETWORK
@TRUST
@OUTPUT
def doctor(json: bool, **wish: Any) -> None:
    """Say why peers are not seen, and what to do about it."""
    from swarm.cli import doctor as command

    command.run(**wish, as_json=json)


@app.command()
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@flag("--strategy", "auto, local, slices, tokens, columns or partial.", default="auto")
@GROUPS
@flag("--goal", "latency, throughput, memory, or survive=K.", default="latency")
@flag("--split", "Blocks to cut before, by number, or cuts by name.", metavar="K[,K...]")
@flag("--on", "Only these peers, in this order.", metavar="NAME[,NAME...]")
@flag("--weights", "pretrained, random:SEED, or a safetensors file.", default="pretrained")
@flag("--wire", "Dtype between peers: float32, float16, bfloat16, int8, or auto.", metavar="DTYPE")
@flag("--repeat", "Ask so many times.", type=click.IntRange(min=1), default=1)
@flag("--deadline", "Seconds for each request.", type=Seconds(0.001), default=60.0)
@flag("--wait", "Seconds to look for peers.", type=Seconds(), default=5.0)
@NETWORK
@TRUST
@COMPUTE
@OUTPUT
def run(model: str, images: tuple[str, ...], split: str | None, on: str | None, json: bool, **more: Any) -> None:
    """Classify pictures together; print labels and where the time went."""
    from swarm.cli import run as command
    from swarm.cli.entry import alone

    wish = command.Wish(
        model=model,
        images=list(images),
        strategy=more.pop("strategy"),
        goal=more.pop("goal"),
        replicate=more.pop("replicate"),
        on_loss=more.pop("on_loss"),
        split=command.places(split),
        on=command.names(on),
        weights=more.pop("weights"),
        wire=more.pop("wire"),
        repeat=more.pop("repeat"),
        deadline_s=more.pop("deadline"),
        wait_s=more.pop("wait"),
    )
    if wish.strategy == "local" and not wish.on:
        more = alone(more)
    command.run(_client(**more), wish, as_json=json)


@app.command(short_help="Compare the ways to run a model here, and say why.")
@click.argument("model")
@flag("--goal", "latency, throughput, memory, or survive=K.", default="latency")
@GROUPS
@flag("--run", "Run every way so many times, and show what it really takes.", type=click.IntRange(min=0), default=0)
@flag("--weights", "pretrained, random:SEED, or a safetensors file.", default="pretrained")
@flag("--wire", "Dtype between peers: float32, float16, bfloat16, int8, or auto.", metavar="DTYPE")
@flag("--deadline", "Seconds for each request.", type=Seconds(0.001), default=60.0)
@flag("--wait", "Seconds to look for peers.", type=Seconds(), default=3.0)
@NETWORK
@TRUST
@COMPUTE
@OUTPUT
def plan(model: str, json: bool, **more: Any) -> None:
    """Show every way to run MODEL with the devices that are here: what it would cost, and why it is not the best."""
    from swarm.cli import plan as command
    from swarm.cli.entry import alone

    keys = {
        "goal": "goal",
        "replicate": "replicate",
        "on_loss": "on_loss",
        "run": "run",
        "weights": "weights",
        "wire": "wire",
        "deadline": "deadline_s",
        "wait": "wait_s",
    }
    wish = command.Wish(model=model, **{name: more.pop(flag) for flag, name in keys.items()})
    command.run(_client(**alone(more)), wish, as_json=json)


@app.command(short_help="Measure this device and its links.")
@click.argument("timed", metavar="[MODEL]...", nargs=-1)
@flag("--wait", "Seconds to look for peers.", type=Seconds(), default=3.0)
@flag("--device", "Where parts run: auto is the best that is here; cpu, cuda, cuda:1, mps…", default="auto")
@NETWORK
@TRUST
@COMPUTE
@OUTPUT
def bench(timed: tuple[str, ...], wait: float, json: bool, **more: Any) -> None:
    """Measure this device and its links anew, keep the figures and print them; of each MODEL, time every stage."""
    from swarm.cli import bench as command
    from swarm.cli.entry import alone

    command.run(_client(**alone(more)), timed, wait, as_json=json)


@app.group(short_help="Prepare a model for being split.")
@click.pass_context
def split(context: click.Context) -> None:
    """Prepare a model for being split, once for its weights."""
    _speak_as_set(context)


@split.command(short_help="Find out which heads and neurons a model needs most.")
@click.argument("model")
@flag(
    "--data",
    "Labelled pictures: a folder with MNIST's IDX files or with a folder for each class, or an .npz file.",
    metavar="DIR",
    required=True,
)
@flag("--weights", "pretrained, random:SEED, or a safetensors file.", default="pretrained")
@flag("--samples", "Batches whose mean the scores are.", type=click.IntRange(1, 65536), default=50)
@flag("--batch", "Pictures in each of them.", type=click.IntRange(1, 65536), default=128)
@flag("--out", "Write it to this file, too.", metavar="FILE")
@COMPUTE
@OUTPUT
def importance(json: bool, **wish: Any) -> None:
    """Score each head and neuron of MODEL on labelled pictures, and try it with only the best of them.

    What is found is kept for these weights: plans of the strategy partial replicate what matters most.
    """
    from swarm.cli import split as command

    command.importance(command.Wish(**wish), as_json=json)


@app.command(short_help="Show a whole swarm on this one machine.")
@OUTPUT
def demo(json: bool) -> None:
    """Show a whole swarm on this machine: three peers, one sliced model, real pictures."""
    from swarm.cli import demo as command

    command.run(as_json=json)


def _client(**common: Any) -> Peer:
    """A peer that only asks."""
    return _peer(f"client-{secrets.token_hex(2)}", port=0, client=True, **common)


def _batching(batching: str, max_batch: int, max_waiting: int, max_wait: float, max_delay: float) -> Batching:
    from swarm.batching import Batching

    return Batching(batching, max_batch, max_waiting, max_wait, max_delay)


def _peer(
    name: str | None,
    *,
    interface: tuple[str, ...],
    peer: tuple[str, ...],
    no_mdns: bool,
    forget: bool,
    secret_file: str | None = None,
    **more: Any,
) -> Peer:
    from swarm.cli.entry import from_file
    from swarm.cli.show import say
    from swarm.peer import Peer

    if secret_file is not None and more.get("secret") is None:
        more["secret"] = from_file(secret_file)
    return Peer(name, interfaces=interface, peers=peer, mdns=not no_mdns, remember=not forget, on_problem=say, **more)
