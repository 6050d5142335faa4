"""Three ways to batch for clients that cut one model at different places: which answers most, soonest, in least memory?

    python -m tests.bench.policies [--model MODEL …] [--device cpu|cuda]          Linux

Each policy serves the four tails of a model in a process of its own, without any network: requests are handed to the
peer's holdings with the numbers that a client's head would send. The three processes measure in turns, so that noise
meets all alike.

    mixed ──▶ clients of four cuts at once, always four batches' worth of them: throughput, latency, memory
    alone ──▶ batches of one cut on an idle server: the seed paper's two figures, over batch size and over slice size

Everything printed is to be read as ratios of one run: absolute times depend on the machine.
"""
