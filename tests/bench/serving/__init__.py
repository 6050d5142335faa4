"""Any strong peer is a batching server: how well does it serve, beside the model alone, mosec and LitServe?

    python -m tests.bench.serving          Linux; about ten minutes, loopback

The model is `fashion-vit`, every process that computes has one torch thread, and all requests carry one picture.

    alone ─────▶ the exported model in a process of its own, batch sizes 1 to 64: the anchor, before and after
    native ────▶ a peer that serves, asked by a peer in another process: 1, 16 and 64 requests in flight
    http ──────▶ the same peer's HTTP, mosec and LitServe, all asked by one cheap load generator, in turns
    overload ──▶ three times as much as it can bear, over both ways: who is answered, who is refused, and how soon

Everything printed is to be read as ratios of one run: absolute times depend on the machine.
"""
