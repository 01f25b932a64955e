"""How much memory a device has to give."""

import os
from pathlib import Path

import torch

UNKNOWN = 4 * 2**30  # bytes, on systems that do not say: half of the smallest laptop


def free_bytes(device: torch.device) -> int:
    """What this process can still take on a device; on the host within the limit of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_available(), _left_in_container())


def _available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _left_in_container(folder: str = "/sys/fs/cgroup") -> int:
    """Control groups of either version: the limit less what is used, of which file caches can be dropped."""
    left = 2**62
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        most, taken = ("".join(_lines(f"{folder}/{name}")) for name in (limit, used))
        if most.isdigit() and taken.isdigit():
            cached = [int(line.split()[1]) for line in _lines(f"{folder}/{stat}") if line.startswith("inactive_file ")]
            left = min(left, max(0, int(most) - int(taken) + sum(cached)))
    return left


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
