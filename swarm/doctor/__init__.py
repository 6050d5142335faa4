"""Why are my peers not seen? Tests on this device, and what they mean in plain words.

    collect ──▶ machine    networks, container, WSL, clock, own keys
       │   └──▶ echo       is multicast heard, by itself and from others
       │   └──▶ visit      each known peer's door, TLS and hello
       ▼
     Facts ──▶ judge ──▶ Report: findings, the likeliest cause first, and the one next step

Judging is pure. Nothing here changes anything, and nobody is bothered by more than two packets and a hello.
"""

from swarm.doctor.collect import examine
from swarm.doctor.judge import judge
from swarm.doctor.words import Facts, Finding, Level, Report

__all__ = ["Facts", "Finding", "Level", "Report", "examine", "judge"]
