"""What runs on the machines: workers that hold a model and tag rows."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reeltag.errors import MediaError, StoreError
from reeltag.inference.any_tagger import TaggerCall, facts_of
from reeltag.store.tag_parts import stamp_of

MAX_DEATHS = 2


class Worker:
    """Tags rows of ray's data set with a model that it loads once.

    Args:
        call: the model, by paths that hold on every machine.
        facts: of the model of the machine that called; see `facts_of`.
        device: a torch device.
        top: how many labels to keep, or None.
        ledger: the handle of a `reeltag.scale.ledger.Ledger`.

    Raises:
        StoreError: the model is not on this machine, or another one is.
    """

    def __init__(self, call: TaggerCall, facts: Mapping[str, str], device: str, top: int | None, ledger: Any) -> None:
        self._tagger, self._top, self._ledger = call.load(device), top, ledger
        if facts_of(self._tagger) != facts:
            raise StoreError(f"{call.model} on {socket.gethostname()} is another model than where the call was made")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row's number, the stamp of its file (see `stamp_of`; -1 for none) and its line as JSON.

        A row that ended two workers is not tried a third time: its line says so. Whatever is no fault of a file ends
        this process, since a GPU or a library may not be what it was; ray starts another, and the row is tried again.
        """
        import ray

        number, name, path = int(row["row"]), os.fsdecode(row["video"]), os.fsdecode(row["path"])
        stamp = stamp_of(path)
        deaths, why = ray.get(self._ledger.begin.remote(number))
        if deaths >= MAX_DEATHS:
            message = f"the process that tagged it ended {deaths} times: {why}"
            line: dict[str, Any] = {"video": name, "error": {"reason": "crashed", "message": message}}
        else:
            line = self._line(number, name, Path(path))
        self._ledger.end.remote(number)
        size, changed = stamp or (-1, -1)
        return {"row": number, "size": size, "changed_ns": changed, "line": json.dumps(line)}

    def _line(self, number: int, name: str, path: Path) -> dict[str, Any]:
        import ray

        try:
            return replace(self._tagger(path), video=name).to_dict(self._top)
        except MediaError as error:
            return {"video": name, "error": {"reason": error.reason, "message": error.detail}}
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            ray.get(self._ledger.fails.remote(number, why))
            os._exit(1)
