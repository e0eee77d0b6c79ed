"""The threads that tag, and how many requests may be under way: the rest is told to come back later."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from reeltag.serve.refusal import Refused

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """A fixed number of threads that do not keep the program alive.

    Those of `ThreadPoolExecutor` do: Ctrl-C would wait for the end of the longest video.

    Args:
        count: of threads.
        prepare: called in each before its first job.
    """

    def __init__(self, count: int, prepare: Callable[[], object]) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._prepare = prepare
        self._threads = [threading.Thread(target=self._work, name=f"tag-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the future of `fn(*args, **kwargs)`, called in one of the threads."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after the jobs before this call; `cancel_futures` is not for these threads."""
        for _ in self._threads:
            self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        self._prepare()
        while (job := self._jobs.get()) is not None:
            job()


class Seats:
    """Places of requests under way: being received, waiting or tagged.

    A request takes its seat before its body is read, so that what lies on disk is bounded too. Used from any thread.

    Args:
        workers: seats of requests that are worked on.
        waiting: seats of those that wait for them.
    """

    def __init__(self, workers: int, waiting: int) -> None:
        self.count, self._workers = workers + waiting, workers
        self._taken = 0
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque([1.0], maxlen=32)  # a second, until more is known

    @property
    def taken(self) -> int:
        """Seats that are taken now."""
        return self._taken

    def take(self) -> Seat:
        """Return a seat.

        Raises:
            Refused: 503, none is free; Retry-After says when one should be.
        """
        with self._lock:
            if self._taken < self.count:
                self._taken += 1
                return Seat(self)
            mean_s = sum(self._seconds) / len(self._seconds)
        # Somebody leaves once in this time on average.
        after_s = max(1, math.ceil(mean_s / self._workers))
        raise Refused(
            503,
            "busy",
            f"all {self.count} places are taken ({self._workers} videos tagged at once); try again in {after_s} s",
            {"Retry-After": str(after_s)},
        )

    def leave(self, seconds: float | None) -> None:
        """Give a seat back, with the time its request was worked on."""
        with self._lock:
            self._taken -= 1
            if seconds is not None:
                self._seconds.append(seconds)


class Seat:
    """The place of one request, given back once when the request and its last job are done."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._lock = threading.Lock()
        self._holders = 1
        self._seconds: float | None = None

    def run(self, executor: Executor, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Return the future of a call in `executor`; the seat is kept until it has ended, even if nobody waits."""

        def timed() -> T:
            started = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self._seconds = (self._seconds or 0.0) + time.monotonic() - started

        with self._lock:
            self._holders += 1
        future = executor.submit(timed)
        future.add_done_callback(lambda _: self._release())
        return future

    def _release(self) -> None:
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._seats.leave(self._seconds)

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
