"""The tags of a long call while it runs: a folder of parts beside its output, so that the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from reeltag.errors import StoreError
from reeltag.store.atomic import write_atomic, write_json
from reeltag.store.lock import FolderLock

Stamp = tuple[int, int] | None
_FACTS = "made_by.json"
_PERIOD_S = 2.0  # what a kill costs at most, beside the videos under way
_ROWS = 1000


def stamp_of(path: str | Path) -> Stamp:
    """Return size in bytes and time of change in nanoseconds of a file; None where it cannot be looked at."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


class TagParts:
    """The finished lines of a call: every part is whole or absent, and a video that changed since is not in it.

    Args:
        out: the file that the call writes in the end; the folder is OUT.parts.
        made_by: what decides the lines, each by a name for the message.

    Raises:
        StoreError: the folder holds lines of something else, is damaged, or another process writes to it.
    """

    def __init__(self, out: Path, made_by: Mapping[str, str]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder, "tags")
        try:
            self._check(dict(made_by))
            self._lines = self._read()
        except BaseException:
            self._lock.close()
            raise
        self._waiting: list[str] = []
        self._written_s = time.monotonic()

    def _check(self, made_by: dict[str, str]) -> None:
        path = self.folder / _FACTS
        if not path.exists():
            write_json(path, made_by)
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise StoreError(f"{path} is damaged; remove {self.folder} to begin anew") from None
        changed = [name for name in sorted(found.keys() | made_by.keys()) if found.get(name) != made_by.get(name)]
        if changed:
            name = changed[0]
            was, now = (str(facts.get(name, "none"))[:12] for facts in (found, made_by))
            raise StoreError(
                f"{self.folder} holds tags of an unfinished call with other {name} ({was}, now {now}): "
                "remove the folder to begin anew, or choose another --out"
            )

    def _read(self) -> dict[str, tuple[Stamp, str]]:
        lines: dict[str, tuple[Stamp, str]] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(text)
                    stamp = None if row["stamp"] is None else (int(row["stamp"][0]), int(row["stamp"][1]))
                    lines[row["line"]["video"]] = stamp, json.dumps(row["line"])
                except (ValueError, TypeError, KeyError, IndexError):
                    raise StoreError(f"{path} is damaged; remove it, and its videos are tagged again") from None
        self._next = 1 + max((int(path.stem[5:]) for path in self.folder.glob("part-*.jsonl")), default=-1)
        return lines

    def line_of(self, video: str | Path) -> dict[str, Any] | None:
        """Return the finished line of a video, or None where there is none, or the file is not what it was."""
        found = self._lines.get(str(video))
        if found is None or found[0] != stamp_of(video):
            return None
        line: dict[str, Any] = json.loads(found[1])
        return line

    def add(self, stamp: Stamp, line: Mapping[str, Any]) -> None:
        """Keep a line; `stamp` is of its video, from before it was tagged. A part is written every two seconds."""
        self._waiting.append(json.dumps({"stamp": stamp, "line": line}))
        if len(self._waiting) >= _ROWS or time.monotonic() - self._written_s >= _PERIOD_S:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            text = "".join(f"{each}\n" for each in self._waiting)
            write_atomic(self.folder / f"part-{self._next:06d}.jsonl", text.encode())
            self._next, self._waiting = self._next + 1, []
        self._written_s = time.monotonic()

    def remove(self) -> None:
        """Remove the folder: the call is done."""
        self._waiting = []
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._lock.close()
