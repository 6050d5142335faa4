"""Splits inside the block in the lab: faster than one device, smaller than one device, and alive when devices die.

    python -m tests.bench.inside speed [--devices 1,2,4,8] [--link 1000]        latency against devices
    python -m tests.bench.inside unequal                                        shares by speed against equal ones
    python -m tests.bench.inside deaths --weights FILE --data FOLDER            one, two, three of four are killed

    python -m tests.bench.inside exact --data FOLDER                            the same answers as one device

Linux, root. Each prints tables of what was measured in that one run, and ratios.
"""
