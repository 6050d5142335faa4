"""A device owner's file: small modules that are awkward in one way each."""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor, nn

from swarm.models import register

if os.environ.get("SWARM_TEST_NOISE"):
    sys.stdout.write("noise on stdout")
    sys.stderr.write("noise on stderr")


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu_(self.linear(self.norm(x)))
        return x + y


@register("tiny-residual", input_shape=(1, 4, 6), labels=["left", "right"], mean=[0.5], std=[0.25])
def tiny_residual() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 8), Residual(8), Residual(8), Residual(8), nn.Linear(8, 2))


class Wrapped(nn.Module):
    """Everything sits one module deeper, and the same two blocks run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_residual()
        self.again = Residual(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(self.again(self.inner(x) * 2) - 1)
        return y


@register("shared", input_shape=(1, 4, 6))
def shared() -> nn.Module:
    return Wrapped()


class Masked(nn.Module):
    """Writes into memory under another name, and makes constants while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.plain = torch.arange(6.0) / 7
        self.register_buffer("scale", torch.linspace(1, 2, 6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y[:, :, 1:3].mul_(0.5)
        mask = torch.zeros(4, 6, device=x.device)
        mask[1:3, 2:] = 1
        with torch.no_grad():
            y = y * mask * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        scores: Tensor = self.last((y + self.plain).mean(2).mean(1))
        return scores


@register("masked", input_shape=(1, 4, 6))
def masked() -> nn.Module:
    return Masked()


class Greedy(nn.Module):
    """Changes its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.out = nn.ReLU(inplace=True), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.act(x).flatten(1))
        return y


@register("greedy", input_shape=(1, 4, 6))
def greedy() -> nn.Module:
    return nn.Sequential(Greedy(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True))


class Moody(nn.Module):
    """Branches on values: there is no one graph of it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(24, 2)
        self.register_buffer("offset", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(x.flatten(1)) + self.offset
        return -y if bool(y.sum() > 0) else y


@register("moody", input_shape=(1, 4, 6), labels=["left", "right"])
def moody() -> nn.Module:
    return Moody()


class Counting(nn.Module):
    """Remembers how often it ran."""

    runs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(24, 2)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs.add_(1)
        y: Tensor = self.out(x.flatten(1))
        return y * self.runs


@register("counting", input_shape=(1, 4, 6))
def counting() -> nn.Module:
    return Counting()


@register("small-beit", input_shape=(3, 32, 32))
def small_beit() -> nn.Module:
    from timm.models.beit import Beit

    return Beit(
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=3,
        num_heads=3,
        num_classes=7,
        use_rel_pos_bias=True,
        use_abs_pos_emb=False,
    )


class TwoWays(nn.Module):
    """Two tensors are live everywhere, as in CrossViT."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x[:, 0, 0]) + self.right(x[:, 0, 1])
        return y


@register("two-ways", input_shape=(1, 4, 6))
def two_ways() -> nn.Module:
    return TwoWays()


@register("overwriting", input_shape=(1, 4, 6))
def overwriting() -> nn.Module:
    """Behind its second module it writes into what that one gave."""
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
