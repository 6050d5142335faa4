"""What is served: `fashion-vit`, exported once, on one torch thread; and the pictures that are asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from swarm.models import fashion_vit

Array = npt.NDArray[np.float32]
SHAPE = fashion_vit.INPUT_SHAPE
CLASSES = len(fashion_vit.LABELS)
ANSWER_BYTES = CLASSES * 4
MAX_BATCH, WAIT_S = 32, 0.002
"""Of the servers that have to be told."""


def exported() -> Callable[[Array], Array]:
    """`[B, 1, 28, 28]` to `[B, 10]`, as fast as torch runs the exported graph. Sets torch's threads to one."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    module: Any = fashion_vit.build().eval()
    module.load_state_dict(load_file(str(fashion_vit.WEIGHTS)))
    batch = torch.export.Dim("batch", min=1, max=256)
    with torch.no_grad():
        program = torch.export.export(module, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},), strict=False)
    graph = program.module()

    def run(x: Array) -> Array:
        with torch.inference_mode():
            answer: Array = graph(torch.from_numpy(x)).numpy()
        return answer

    for size in (1, MAX_BATCH):
        run(np.zeros((size, *SHAPE), np.float32))
    return run


def pictures() -> Array:
    """Twenty real ones, as the model takes them: `[20, 1, 28, 28]`, each one's bytes apart from the others'."""
    from PIL import Image

    files = sorted((fashion_vit.WEIGHTS.parent / "pictures").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file).convert("L"), np.float32)[None] for file in files])
    normal: Array = ((pixels / 255 - fashion_vit.MEAN[0]) / fashion_vit.STD[0]).astype(np.float32)
    return normal
