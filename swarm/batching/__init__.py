"""One worker thread that runs all the parts of this peer, and the queue before it.

job ─▶ queue (bounded, fair, by deadline) ─▶ policy: which slice, which rows ─▶ worker thread ─▶ rows to each caller
"""

from swarm.batching.batcher import Batcher
from swarm.batching.jobs import Ran
from swarm.batching.policies import POLICIES, Policy
from swarm.batching.queue import Batching
from swarm.batching.slice import Plain, Slice

__all__ = ["POLICIES", "Batcher", "Batching", "Plain", "Policy", "Ran", "Slice"]
