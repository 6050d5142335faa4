"""Who is in the swarm: a pure core after SWIM and Lifeguard, with a versioned map of every peer.

core       Membership: what happens comes in, actions come out
dialling   whom to connect to           detector   who still answers
spreading  what others should know      table      what is known
messages   what travels                 health     blame oneself first
"""

from swarm.membership.actions import Action, Dial, Drop, Knock, Send
from swarm.membership.core import MAX_PEERS, Membership
from swarm.membership.messages import MAX_MESSAGE_BYTES, Message, decode, encode

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_PEERS",
    "Action",
    "Dial",
    "Drop",
    "Knock",
    "Membership",
    "Message",
    "Send",
    "decode",
    "encode",
]
