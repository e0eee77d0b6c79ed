"""Runs a function in several connected processes on this machine, forked so that torch need not load again."""

import multiprocessing
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

TIMEOUT_S = 120


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(world: int, function: Callable[..., Any], *args: Any, results: Any = None) -> list[BaseProcess]:
    """Start `function(*args)` in `world` processes, told of each other as by a launcher, and return them at once."""
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [
        context.Process(target=_run, args=(rank, world, port, results, function, args)) for rank in range(world)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        for process in processes:
            process.start()
    return list(processes)


def together(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what `function(*args)` returned in each of `world` processes, in the order of ranks."""
    results = multiprocessing.get_context("fork").SimpleQueue()
    processes = start(world, function, *args, results=results)
    found: dict[int, tuple[bool, Any]] = {}
    try:
        for process in processes:
            process.join(TIMEOUT_S)
            while not results.empty():
                rank, well, value = results.get()
                found[rank] = well, value
    finally:
        for process in processes:
            process.kill()
    for rank in range(world):
        well, value = found.get(rank, (False, f"no result; exit code {processes[rank].exitcode}"))
        assert well, f"process {rank}: {value}"
    return [found[rank][1] for rank in range(world)]


def _run(rank: int, world: int, port: int, results: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)},
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):  # of what the tests' own process has trained alone
        state._shared_state.clear()
    code, answer = 0, None
    try:
        answer = (rank, True, function(*args))
    except BaseException as error:
        code, answer = 1, (rank, False, traceback.format_exc())
        if results is None:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if results is not None:
        results.put(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the clean-up of the test session that was forked
