"""Words about plans: who holds which part, and which tensors go from whom to whom.

A plan is a DAG of steps. `INPUT` and `OUTPUT` stand for the requester at its two ends::

    input ──edge──▶ step 0 (part, peer) ──edge──▶ step 1 (part, peer) ──edge──▶ output
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Final, Literal

from msgspec import Meta

from swarm.types import Address, Count, Digest, Fraction, Name, PeerId, Rate, Seconds, TensorSpec

INPUT: Final = "input"
OUTPUT: Final = "output"

Metric = Literal["latency", "throughput", "memory", "survive"]

Split = Literal["tokens", "columns"]
OnLoss = Literal["retry", "degrade"]

MAX_BLOCKS: Final = 1024
Peers = Annotated[tuple[PeerId, ...], Meta(min_length=1, max_length=64)]
PerBlock = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=MAX_BLOCKS)]


@dataclass(frozen=True, slots=True)
class Shard:
    """What a part holds of each of its blocks, for a group: so many whole heads, and so many neurons of the MLP.

    Which ones does not matter to who runs them; the digest of the weights tells. A shard of all runs tokens too.
    """

    heads: PerBlock
    neurons: PerBlock


@dataclass(frozen=True, slots=True)
class Part:
    """What a peer holds: here a run of a model, from one cut to another, with given weights."""

    model: Name
    anatomy: Digest
    """Digest of the model's exported graph: both sides must have come to the same."""
    start: Name = INPUT
    end: Name = OUTPUT
    weights: Digest = ""
    """`weights_digest` of its own tensors. Strategies leave it out; a part without it is not taken from the wire."""
    shard: Shard | None = None
    """What of each block, for a member of a group; `start` and `end` are then ends of blocks. None is all of them."""

    @property
    def key(self) -> str:
        """SHA-256 of all that makes it what it is: plans that need the same part share one copy and one queue."""
        return _key(self)

    @property
    def name(self) -> str:
        """For people."""
        share = "" if self.shard is None else f", {sum(self.shard.heads)} heads, {sum(self.shard.neurons)} neurons"
        return f"{self.model}[{self.start}..{self.end}{share}]@{self.key[:8]}"


@lru_cache(4096)
def _key(part: Part) -> str:
    content = [part.model, part.anatomy, part.start, part.end, part.weights]
    if part.shard is not None:
        content += [",".join(map(str, part.shard.heads)), ",".join(map(str, part.shard.neurons))]
    return sha256("\n".join(content).encode()).hexdigest()


def weights_digest(digests: Iterable[str]) -> str:
    """SHA-256 over the SHA-256 of each of a part's tensors, in the order of the part's own names."""
    return sha256("\n".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Member:
    """What one peer of a group holds and does."""

    part: Part
    """With a `shard`; its weights are this member's own."""
    tokens: Count
    """How many of each sample's tokens are its: the first member has the first ones, and so on."""


@dataclass(frozen=True, slots=True)
class Group:
    """How the peers of a step share its blocks, in lock-step; `swarm.collectives` tells what they send each other.

    tokens     each runs its own tokens through whole blocks; keys and values are gathered once a block
    columns    each runs all tokens through its own heads and neurons; partial outputs are summed twice a block
    """

    split: Split
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=64)]
    """In the order of the step's peers. The first leads: it gives out the output, and nobody can do without it."""
    tokens: Count
    width: Count
    keys: Count
    needed: Count
    """How many tokens of the output, the first ones, anybody reads; the others are zero."""
    wire: Name = "float32"
    scatters: bool = False
    """Sums of columns are made token by token at their owners and gathered: fewer bytes, twice the exchanges."""
    patience_s: Seconds = 5.0
    """How long an exchange waits for a member before that counts as missing."""
    on_loss: OnLoss = "retry"
    """What becomes of a request under which a member goes: it is asked again, or goes on without it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part run on one peer, or on a group of peers in lock-step."""

    id: Name
    part: Part
    """Of a group: the run of blocks that they share, as a whole."""
    peers: Peers
    group: Group | None = None

    def part_of(self, peer: PeerId) -> Part:
        """What `peer` holds for this step."""
        return self.part if self.group is None else self.group.members[self.peers.index(peer)].part

    @property
    def lead(self) -> PeerId:
        """Whoever gives out the output."""
        return self.peers[0]


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor that one step sends to the next, straight from peer to peer."""

    source: Name
    target: Name
    sender: PeerId
    receiver: PeerId
    tensor: TensorSpec
    wire: Name = "float32"
    """The dtype in which it travels."""
    tokens: tuple[Count, Count] | None = None
    """Only these tokens of what the sender has, from the first up to the second: `tensor` is of them alone."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a requester wants of a plan, and what it insists on."""

    metric: Metric = "latency"
    split: tuple[int | str, ...] | None = None
    """Block indices to cut before, or names of cuts; None leaves the cuts to the strategy."""
    peers: tuple[PeerId, ...] | None = None
    """Only these, in this order; None leaves the choice to the strategy."""
    wires: tuple[Name, ...] = ("float32",)
    """The dtypes in which tensors may travel; the planner takes the fastest of them for each edge."""
    max_batch: int = 64
    survive: Count = 0
    """How many peers may be lost at once without a request having to wait for parts to be loaded."""
    replicate: Annotated[tuple[Fraction, ...], Meta(max_length=MAX_BLOCKS)] | None = None
    """For `partial`: the fraction that the requester holds besides its share. One is of all blocks together, and goes
    where it matters most if that is known; or one for each block. None leaves it to the strategy."""
    on_loss: OnLoss = "retry"


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """What one step of a request of one sample should take. `wire_s` and `bytes` are of the tensors that come in; of a
    group's step, `bytes` are also those of its exchanges, as its lead sees them."""

    step: Name
    compute_s: Seconds
    wire_s: Seconds
    queue_s: Seconds
    bytes: Count
    exchange_s: Seconds = 0.0
    """Of a group: what its exchanges add to its compute."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a strategy expects of its plan, for requests of one sample."""

    latency_s: Seconds = 0.0
    """0 when some peer was not measured: nothing can be said then."""
    throughput_per_s: Rate = 0.0
    """With several requests in flight: what the slowest device or link of the plan bears."""
    moved_bytes: Count = 0
    """Of one request, over the network."""
    peak_memory_bytes: Annotated[Mapping[PeerId, Count], Meta(max_length=256)] = field(default_factory=dict)
    """Parameters and the most activations, by peer."""
    losses_survived: Count = 0
    steps: Annotated[tuple[StepEstimate, ...], Meta(max_length=256)] = ()
    answer_s: Seconds = 0.0
    """The way back."""
    ask_s: Seconds = 0.0
    """The requester's own share."""
    accuracy: Annotated[tuple[Fraction, ...], Meta(max_length=64)] = ()
    """Of answers while none, one, two… of the other peers are missing; empty where none may be, or nobody knows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan, or the fragment of one that a single peer needs to know."""

    id: Name
    strategy: Name
    requester: PeerId
    steps: Annotated[tuple[Step, ...], Meta(max_length=256)]
    edges: Annotated[tuple[Edge, ...], Meta(max_length=1024)]
    max_batch: Annotated[int, Meta(ge=1, le=65536)] = 64
    """Most samples in one request; bounds what a peer will ever receive on an edge."""
    estimate: Estimate = Estimate()

    def peers(self) -> tuple[PeerId, ...]:
        """All peers with a step, sorted."""
        return tuple(sorted({peer for step in self.steps for peer in step.peers}))

    def step(self, step_id: str) -> Step | None:
        return next((step for step in self.steps if step.id == step_id), None)

    def inputs(self, step_id: str) -> tuple[Edge, ...]:
        return tuple(edge for edge in self.edges if edge.target == step_id)

    def outputs(self, step_id: str) -> tuple[Edge, ...]:
        return tuple(edge for edge in self.edges if edge.source == step_id)

    def spares(self, peer: PeerId) -> bool:
        """Whether a request goes on when `peer` is lost: it only helps groups that do without it."""
        mine = [step for step in self.steps if peer in step.peers]
        return (
            peer != self.requester
            and bool(mine)
            and all(step.group is not None and step.group.on_loss == "degrade" and peer != step.lead for step in mine)
        )

    def fragment(self, peer: PeerId) -> Plan:
        """Only `peer`'s own steps and the edges that touch it."""
        return replace(
            self,
            steps=tuple(step for step in self.steps if peer in step.peers),
            edges=tuple(edge for edge in self.edges if peer in (edge.sender, edge.receiver)),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model that stood in the planner's contest. Never travels."""

    title: str
    """For people: the strategy, and on whom."""
    plan: Plan | None
    """None for a way that cannot be gone; `verdict` says why."""
    standbys: tuple[Plan, ...] = ()
    """Whole plans that are loaded beside it, each without the peers of the others; the requester may be in all."""
    verdict: str = ""
    """A sentence: why it was chosen, why it lost, or why it cannot be."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a requester asks one peer to hold; the peer accepts with a lease or declines with a reason.

    With it, as raw bytes, travel the SHA-256 of each step's tensors, step by step, in the order of the parts' names.
    """

    plan: Plan
    addresses: Mapping[PeerId, tuple[Address, ...]]
    """Where the other peers of the plan listen."""
    sources: Annotated[tuple[PeerId, ...], Meta(max_length=64)]
    """Who can send the parameters."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A peer's reply to an offer: a lease, or the reason why not."""

    accepted: bool
    reason: Annotated[str, Meta(max_length=2048)] = ""
    lease_s: Seconds = 0.0
    memory_free_bytes: Count = 0
    lacks_room: bool = False
    """Whether that is the reason: with `memory_free_bytes` it is all that the peer has."""


@dataclass(frozen=True, slots=True)
class StepTrace:
    """What one step of one request took. `wire_s` and `bytes` are of the tensors that came in."""

    step: Name
    peer: Name
    queue_s: Seconds
    compute_s: Seconds
    wire_s: Seconds
    bytes: Count
    exchange_s: Seconds = 0.0
    """Of a group: how long its lead waited for the others."""
    missing: Annotated[tuple[PeerId, ...], Meta(max_length=64)] = ()
    """Of a group: who was lost under it, and left out."""
