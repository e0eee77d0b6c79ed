"""What the hardware can do: precision, loader processes and the device that `auto` means."""

from __future__ import annotations

import os
from typing import Literal

import torch

from reeltag.errors import ReeltagError


def resolve_device(name: str) -> torch.device:
    """Return the torch device of a `--device` value; `auto` is the GPU when there is one.

    Among several processes `auto` and `cuda` are the GPU that the launcher gave to this one (LOCAL_RANK).
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK")
        return torch.device("cuda") if own is None else torch.device("cuda", int(own))
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ReeltagError(f"--device {name!r} is no torch device; use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ReeltagError(f"--device {name!r}: this machine shows no GPU to torch; use auto or cpu")
    return device


def resolve_precision(precision: Literal["auto", "bf16", "fp32"], device: str) -> Literal["bf16", "fp32"]:
    """Return the precision that `auto` means: bf16 where the device multiplies it in hardware, else fp32."""
    if precision != "auto":
        return precision
    if resolve_device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_multiplies_bf16() else "fp32"


def cpu_multiplies_bf16() -> bool:
    """Return whether this CPU has bf16 matrix instructions (AVX512-BF16, AMX-BF16)."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13 has none
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def default_workers(device: torch.device, packed: bool) -> int:
    """Return the number of loader processes: on a CPU the cores train, on a GPU they decode."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return 0 if packed else min(2, cores)
    return min(8 if packed else 16, max(1, cores - 1))
