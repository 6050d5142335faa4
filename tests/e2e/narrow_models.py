"""Families whose smallest member in timm is wide: the same blocks, all of them, with fewer channels."""

import timm
from torch import nn

from swarm.models import register


@register("narrow-beit", input_shape=(3, 64, 64), labels=[str(i) for i in range(10)])
def beit() -> nn.Module:
    model: nn.Module = timm.create_model(
        "beit_base_patch16_224", img_size=64, embed_dim=96, num_heads=3, num_classes=10, head_init_scale=1.0
    )
    return model


@register("narrow-swin", input_shape=(3, 64, 64), labels=[str(i) for i in range(10)])
def swin() -> nn.Module:
    model: nn.Module = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, num_classes=10
    )
    return model
