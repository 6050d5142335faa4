"""`fashion-vit`: the small vision transformer that ships inside the package, with its weights.

Twelve blocks like ViT-Base's, but narrow: it names 28×28 pictures of clothes (Fashion-MNIST) and runs on anything.
Trained by `examples/train_fashion_vit.py`.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

NAME = "fashion-vit"
WIDTH, HEADS = 64, 4
INPUT_SHAPE = (1, 28, 28)
MEAN, STD = (0.2860,), (0.3530,)
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
WEIGHTS = Path(__file__).resolve().parent / "data" / "fashion-vit.safetensors"


def build(width: int = WIDTH, heads: int = HEADS) -> Any:
    """The untrained module, or a wider one like it. Imports timm."""
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=28,
        patch_size=1,
        in_chans=1,
        num_classes=len(LABELS),
        embed_dim=width,
        depth=12,
        num_heads=heads,
        embed_layer=partial(HybridEmbed, backbone=_stem(width), feature_size=(4, 4)),
    )


def _stem(width: int) -> Any:
    """Three strided convolutions, 28×28 to 4×4: sixteen tokens, which on small pictures learn faster than patches."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, after in pairwise((1, 16, 32, width)):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.GELU()]
    stem = nn.Sequential(*layers)
    stem.num_features = width  # type: ignore[assignment]
    return stem
