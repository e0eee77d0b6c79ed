"""Signs of life between the processes of a run: one that is killed, hangs or fails soon ends the others."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

BEAT_S = 2.0
SILENT_S = 20.0  # a process silent for longer is lost; training threads let this one run every few milliseconds
_DONE, _FAILED = b"done", b"failed"
_NEXT = "the same command with --resume goes on from the newest checkpoint"


class Watch:
    """While it is entered, a thread tells the others every `BEAT_S` that this process lives, and reads their signs.

    Waiting in an exchange for a process that is gone can last for the time limit of the exchange (with NCCL, or when a
    machine loses its power or a process is stopped). The thread does not wait with it: it prints one line on standard
    error and ends this process with code 2, when another failed or was silent for `SILENT_S`. A SIGTERM, by which
    launchers end the processes that are left, is answered with one line and code 143 at once.

    Args:
        rank: this process.
        world: how many there are; their launcher's store (MASTER_ADDR, MASTER_PORT) carries the signs.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        run = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A client of its own: a wait on another one would hold its connection.
        limit = timedelta(seconds=SILENT_S)
        store = dist.TCPStore(host, port, is_master=False, timeout=limit)  # type: ignore[attr-defined]
        self._store: Any = dist.PrefixStore(f"reeltag/{run}", store)  # type: ignore[attr-defined]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reeltag-watch", daemon=True)
        self._previous: Any = None
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Watch:
        self._tell(b"0")
        dist.barrier()  # every process has given its first sign before anybody looks
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous = (
                signal.signal(signal.SIGTERM, lambda number, frame: None),
                signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False),
            )
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(RuntimeError):  # the store may be gone with what was lost
            # All stop together at Ctrl-C, but one still writes the checkpoint.
            self._tell(_DONE if kind in (None, KeyboardInterrupt) else _FAILED)
        self._stopping.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous[1])
            signal.signal(signal.SIGTERM, self._previous[0])
            os.write(self._pipe[1], b"\0")  # wakes the thread
        self._thread.join(timeout=2 * BEAT_S)

    def _tell(self, sign: bytes) -> None:
        self._store.set(f"sign/{self.rank}", sign)

    def _run(self) -> None:
        keys = [f"sign/{rank}" for rank in range(self.world)]
        last = [b""] * self.world
        heard_s = [time.monotonic()] * self.world
        before_s, beat = time.monotonic(), 0
        while not self._wait():
            try:
                beat += 1
                self._tell(str(beat).encode())
                signs = self._store.multi_get(keys)
            except RuntimeError:
                if time.monotonic() - heard_s[self.rank] > SILENT_S:
                    self._end("the launcher's store no longer answers")
                continue
            now_s = time.monotonic()
            # After a halt of this process itself (a suspended machine) the others have not been silent: start anew.
            halted = now_s - before_s > SILENT_S / 2
            before_s = now_s
            for rank, sign in enumerate(signs):
                if sign != last[rank] or sign == _DONE or halted:
                    last[rank], heard_s[rank] = sign, now_s
                if sign == _FAILED:
                    self._end(f"process {rank} of {self.world} failed; its own message says why")
                if now_s - heard_s[rank] > SILENT_S:
                    self._end(f"process {rank} of {self.world} gave no sign of life for {SILENT_S:.0f} s")

    def _wait(self) -> bool:
        """Wait for the next beat, or for a SIGTERM; returns whether to stop."""
        if self._pipe is None:
            return self._stopping.wait(BEAT_S)
        ready, _, _ = select.select([self._pipe[0]], [], [], BEAT_S)
        if ready and signal.SIGTERM in os.read(self._pipe[0], 64) and not self._stopping.is_set():
            self._end("the launcher ended this process, since another failed or a stop was asked for", code=143)
        return self._stopping.is_set()

    def _end(self, why: str, code: int = 2) -> None:
        if self._stopping.is_set():
            return
        time.sleep(0.2 * bool(self.rank))  # so that the lines of several processes rarely mix
        print(f"error (process {self.rank}): {why}; {_NEXT}", file=sys.stderr, flush=True)
        os._exit(code)  # the main thread may wait in an exchange for ever
