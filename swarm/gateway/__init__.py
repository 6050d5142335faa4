"""The Open Inference Protocol v2 on a peer: HTTP clients that exist already ask a swarm as they would ask one server.

connections ─▶ guard ─▶ routes ─▶ bodies ─▶ asking ─▶ inference ─▶ replying
  (slow,        (who may,           (size, time)        (sessions of
   too many)     from where)                             the repository)
"""

from swarm.gateway.server import DEFAULT_HOST, DEFAULT_PORT, Gateway

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Gateway"]
