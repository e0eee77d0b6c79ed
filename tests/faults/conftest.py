"""What the kill tests share."""

import os
import signal
import time
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def run_and_kill() -> Callable[[Callable[[], object], float], bool]:
    """`run_and_kill(work, after_s)` does `work` in a child and kills it with -9; returns whether it had ended."""

    def run(work: Callable[[], object], after_s: float) -> bool:
        child = os.fork()  # not a new interpreter: a child that has torch loaded reaches the work at once
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False

    return run
