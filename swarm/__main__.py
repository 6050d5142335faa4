"""`python -m swarm` is the command `swarm`."""

from swarm.cli import main

main()
