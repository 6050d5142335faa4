"""What an emulated device is: words only."""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a lab; None means without a limit.

    :param cpu: share of one core of this machine, all its processes together; 2.0 is two cores.
    :param memory_bytes: of all its processes together, page cache included; who goes beyond is killed (-9).
    :param link_bits_per_s: of its cable, each way.
    """

    cpu: float | None = None
    memory_bytes: int | None = None
    link_bits_per_s: int | None = None
    name: str = "device"

    def __post_init__(self) -> None:
        if self.cpu is not None and self.cpu < MINIMUM_SHARE:
            raise ValueError(f"a device has at least {MINIMUM_SHARE} of a core, not {self.cpu}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ValueError("a device has at least one byte of memory")
        if self.link_bits_per_s is not None and self.link_bits_per_s < 8:
            raise ValueError("a link carries at least one byte a second")

    @property
    def is_limited(self) -> bool:
        """Whether it takes cgroups to make it."""
        return self.cpu is not None or self.memory_bytes is not None
