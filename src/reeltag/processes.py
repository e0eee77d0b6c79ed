"""The processes of one run: who this one is, what they tell each other, and what happens when one of them is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reeltag.errors import LostProcess, ReeltagError
from reeltag.hardware import resolve_device
from reeltag.watch import Watch

T = TypeVar("T")
_TIMEOUT = timedelta(hours=2)  # of one exchange; a process that is gone is noticed by the connection or by the watch


@dataclass(frozen=True)
class Processes:
    """One process among `world`; every method is called by all of them at the same point.

    Small things (flags, counts, objects) travel between CPUs, whatever the device of the model.

    Attributes:
        rank: this process, in 0..world-1; 0 writes files and logs.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a sequence: neighbours, sizes that differ by one at most."""
        return items[len(items) * self.rank // self.world : len(items) * (self.rank + 1) // self.world]

    def counts(self, *own: int) -> list[list[int]]:
        """Return the numbers that each process gave, in the order of ranks."""
        if self.world == 1:
            return [list(own)]
        mine = torch.tensor(own, dtype=torch.int64)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return [numbers.tolist() for numbers in found]

    def any(self, *own: bool) -> list[bool]:
        """Return, for each flag, whether any process gave it as true."""
        return [any(flags) for flags in zip(*self.counts(*map(int, own)), strict=True)]

    def objects(self, own: T) -> list[T]:
        """Return what each process gave, in the order of ranks; anything that can be pickled."""
        if self.world == 1:
            return [own]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, own)
        return found

    def to_main(self, own: T) -> list[T]:
        """Return to the main process what each gave, in the order of ranks; an empty list to the others."""
        if self.world == 1:
            return [own]
        found: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(own, found, dst=0)
        return found or []

    def from_main(self, compute: Callable[[], T]) -> T:
        """Return `compute()` of the main process to all; a ReeltagError there is raised in all."""
        if self.world == 1:
            return compute()
        told: list[Any] = [None]
        if self.is_main:
            try:
                told = [(compute(), None)]
            except ReeltagError as error:
                told = [(None, error)]
        dist.broadcast_object_list(told, src=0)
        result: T
        result, problem = told[0]
        if problem is not None:
            raise problem
        return result

    def same_buffers(self, model: torch.nn.Module) -> None:
        """Give every process the main one's buffers (running statistics), which gradients do not keep equal."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def rows_of_all(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Return the rows that each process holds, on the device of `own`, without gradient.

        Args:
            own: (at least counts[rank], ...), the same number of further axes everywhere.
            counts: how many of its first rows each process gives.
        """
        if self.world == 1:
            return [own[: counts[0]].detach()]
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        padded[: counts[self.rank]] = own[: counts[self.rank]].detach()
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [part[:count] for part, count in zip(found, counts, strict=True)]


ALONE = Processes()
_joined: list[Processes] = []


def launched() -> int:
    """Return how many processes the launcher (torchrun, `accelerate launch`) started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def current() -> Processes:
    """Return the processes that `join` has connected, or this one alone."""
    return _joined[-1] if _joined else ALONE


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Connect the processes of this run while the context is open; with one process nothing happens.

    gloo carries what lies on CPUs and NCCL what lies on GPUs. Entering it again inside returns the same processes.

    Raises:
        LostProcess: another process ended or stopped answering before this one was done.
    """
    if _joined or launched() == 1:
        yield current()
        return
    on_gpu = resolve_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    _joined.append(processes)
    try:
        with Watch(processes.rank, processes.world):
            try:
                yield processes
                dist.barrier()  # nobody leaves while another still writes or reads
            except RuntimeError as error:
                if not _is_connection(error):
                    raise
                raise LostProcess(
                    f"another of the {processes.world} processes of this run is gone ({str(error).splitlines()[0]}); "
                    "its own message or the launcher's says why; the same command with --resume goes on from the "
                    "newest checkpoint"
                ) from error
        dist.destroy_process_group()
    finally:
        _joined.clear()


def _is_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
