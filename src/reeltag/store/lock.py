"""One writer a folder: locks that the system lets go whatever way a process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from reeltag.errors import StoreError


class FolderLock:
    """Holds a folder for this process until `close`, or to the end of a `with` statement.

    Args:
        folder: must exist; nothing is written into it.
        what: is written there, for the message.

    Raises:
        StoreError: another process, or another lock of this one, holds the folder.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise StoreError(
                f"another process is writing {what} to {folder}; wait for it, or choose another --out"
            ) from None

    def close(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProcessLock:
    """Holds a folder for this process alone: children that it starts do not hold it on when it is killed.

    The folder gets an empty file `.writer`. Several locks of one process do not exclude each other.

    Args:
        folder: must exist.
        what: is written there, for the message.
        wait_s: how long a process that is just ending is waited for.

    Raises:
        StoreError: another process holds the folder.
    """

    def __init__(self, folder: Path, what: str, *, wait_s: float = 3.0) -> None:
        self._descriptor = os.open(folder / ".writer", os.O_RDWR | os.O_CREAT, 0o644)
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() >= end:
                    self.close()
                    raise StoreError(
                        f"another process is writing {what} to {folder}; wait for it, or choose another --out"
                    ) from None
                time.sleep(0.1)

    def close(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
