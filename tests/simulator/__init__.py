"""A swarm in virtual time: the real membership core, everything around it simulated, one integer for all chance.

    clock     events in order                  node      a process: it runs, stalls, dies, starts anew
    network   delay, loss, cuts, knocks        truth     what must never happen, and what must come true
    world     all of them, and what befalls them: faults as methods
    script    scenarios in a few words         chance    scenarios from a seed

`python -m tests.simulator SEED` runs one of the random scenarios again, and tells what happened.
"""
