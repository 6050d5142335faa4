"""Which device a wish stands for: the best that is here, or a sentence that names those that are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from swarm.errors import UsageError
from swarm.models import devices
from swarm.models.workshop import Workshop


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((3, 7)[device.index], 8))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(backend, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_the_best_is_the_accelerator_with_the_most_free_memory() -> None:
    assert devices.present() == ("cuda:1", "cuda:0", "cpu")
    assert [devices.pick(wish) for wish in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]
    assert devices.memory("cuda:0") == (3, 8)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_cannot_be_asked_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> tuple[int, int]:
        if device.index == 1:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 1, 8

    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    assert devices.pick("auto") == "cuda:0"


@pytest.mark.usefixtures("no_gpu")
def test_without_an_accelerator_it_is_the_processor(tmp_path: Path) -> None:
    assert devices.pick("auto") == "cpu"
    assert devices.memory("cpu") is None
    for wish in ("cuda", "cuda:0", "mps", "nonsense", ""):
        with pytest.raises(UsageError, match=f"device '{wish}' is not here; use --device auto, or one of: cpu"):
            devices.pick(wish)
    workshop = Workshop(tmp_path, (), "auto", 1)
    assert workshop.device() == "cpu"


@pytest.mark.usefixtures("no_gpu")
async def test_a_workshop_refuses_a_device_that_is_not_here(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, (), "cuda", 1)
    with pytest.raises(UsageError, match="'cuda' is not here"):
        await workshop.benchmark()
    with pytest.raises(UsageError, match="'cuda' is not here"):
        await asyncio.to_thread(workshop.warm)


def test_float32_is_computed_as_such() -> None:
    torch.backends.cudnn.allow_tf32 = True
    devices.be_exact()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
