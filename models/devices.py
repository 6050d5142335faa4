"""Where parts may run on this machine, and which place is the best.

Importing this loads no torch; the calls do, so they belong into a thread, or into a child process.
"""

from __future__ import annotations

from swarm.errors import UsageError

AUTO, CPU = "auto", "cpu"
_KINDS = ("cuda", "mps", "xpu")
"""Accelerators, the best first."""


def pick(wish: str) -> str:
    """The device that is wished for: `auto` is the best that is here; a kind such as `cuda` its roomiest device.

    Imports torch unless it is the CPU. Raises `UsageError` for a device that is not here, and names those that are.
    """
    if wish == CPU:
        return CPU
    here = present()
    if wish == AUTO:
        return here[0]
    for device in here:
        if wish in (device, device.partition(":")[0]):
            return device
    raise UsageError(f"The device '{wish}' is not here; use --device {AUTO}, or one of: {', '.join(here)}.")


def present() -> tuple[str, ...]:
    """All devices, the best first: kind by kind, and of one kind that with the most free memory."""
    return (*(device for kind in _KINDS for device in sorted(_of_kind(kind), key=_fullness)), CPU)


def memory(device: str) -> tuple[int, int] | None:
    """Free and total bytes of a device with memory of its own; None for the CPU, whose memory the system knows."""
    import torch

    kind = device.partition(":")[0]
    if kind == "mps":
        total = torch.mps.recommended_max_memory()
        return max(0, total - torch.mps.driver_allocated_memory()), total
    asked = getattr(getattr(torch, kind, None), "mem_get_info", None)  # older versions of torch ask only CUDA
    if asked is None:
        return None
    free, total = asked(torch.device(device))
    if kind == "cuda":  # blocks that torch has freed and keeps for itself look taken
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free, total


def be_exact() -> None:
    """Compute float32 as such on every device, so that peers agree: CUDA convolutions round to fewer bits by default.

    Holds for this process.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def synchronize(device: str) -> None:
    """Wait until a device has done what it was asked to do; the CPU always has."""
    if device.partition(":")[0] != CPU:
        import torch

        torch.accelerator.synchronize(torch.device(device))


def _of_kind(kind: str) -> list[str]:
    import torch

    if kind == "mps":
        return ["mps"] if torch.backends.mps.is_available() else []
    module = getattr(torch, kind)
    return [f"{kind}:{index}" for index in range(module.device_count())] if module.is_available() else []


def _fullness(device: str) -> int:
    try:
        found = memory(device)
    except RuntimeError:  # another process holds all of it, or may use it alone
        return 0
    return 0 if found is None else -found[0]
