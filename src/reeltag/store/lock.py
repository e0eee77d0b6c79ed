"""One writer a folder: a lock that the system lets go whatever way a process ends."""

from __future__ import annotations

import fcntl
import os
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
