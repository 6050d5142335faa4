"""A model of your own, for `swarm join --models examples/my_models.py` on every device that shall take part.

A name and a function that builds the module are all that it takes. Then, on one of the devices:

    swarm run tiny-net picture.png --models examples/my_models.py --weights random:0
"""

import torch
from torch import nn

from swarm.models import register


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.inner(x)  # the one tensor that is live here: a cut
        return y


@register("tiny-net", input_shape=(3, 32, 32), labels=["cat", "dog"])
def tiny_net() -> nn.Module:
    blocks = [Residual(8) for _ in range(4)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), *blocks, *head)
