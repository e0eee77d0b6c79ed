"""Work on many files in a few processes: results in order, a bounded number in flight, a crash costs one file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_WORKER = 3


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, crashed: Callable[[Item], Result]
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order.

    Args:
        function: a function of a module, since it travels to other processes; it returns failures, it raises none.
        workers: processes; 0 works in this one, where a crash of a decoder ends the program. A script that calls this
            with workers needs `if __name__ == "__main__":`, since each process imports it.
        crashed: the result of an item that ended its process (asked once it did so alone).
    """
    if workers <= 0:
        yield from map(function, items)
        return
    left = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = _pool(workers)
    try:
        while True:
            for item in islice(left, workers * _IN_FLIGHT_PER_WORKER - len(waiting)):
                waiting.append((item, pool.submit(function, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                result = _alone(function, item, crashed)
                pool = _pool(workers)
                waiting = deque((other, pool.submit(function, other)) for other, _ in waiting)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone(function: Callable[[Item], Result], item: Item, crashed: Callable[[Item], Result]) -> Result:
    with _pool(1) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return crashed(item)


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a forked child would inherit the locks of torch's threads in whatever state they are.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Use one thread, and end with the parent: a killed one sends no word, and its workers would wait for ever."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
