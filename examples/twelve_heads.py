"""A model with many heads to share out: `fashion-vit`, half as wide again, with twelve heads in each of twelve blocks.

    python examples/twelve_heads.py FOLDER OUT.safetensors     trains it on Fashion-MNIST's four gzipped IDX files
    swarm run twelve-heads PICTURE --models examples/twelve_heads.py --weights OUT.safetensors --strategy partial

Takes about 50 minutes on one CPU core; prints the test accuracy after each epoch.
"""

import sys
from pathlib import Path

from torch import nn

from swarm.models import register
from swarm.models.fashion_vit import INPUT_SHAPE, LABELS, MEAN, STD, build

WIDTH, HEADS = 96, 12


@register("twelve-heads", input_shape=INPUT_SHAPE, labels=LABELS, mean=MEAN, std=STD)
def twelve_heads() -> nn.Module:
    model: nn.Module = build(WIDTH, HEADS)
    return model


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from train_fashion_vit import train  # type: ignore[import-not-found]

    train(Path(sys.argv[1]), Path(sys.argv[2]), twelve_heads())
