"""The ledger of rows that ended a worker; it loads nothing heavy, since it lives in a process of its own."""

from __future__ import annotations

from collections import Counter

_UNKNOWN = "a crash while decoding or computing, too little memory, or a kill"


class Ledger:
    """Counts for each row how many workers began it and did not finish."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._said: dict[int, str] = {}

    def begin(self, row: int) -> tuple[int, str]:
        """Return how many workers ended on this row before, and what the last one said of it."""
        before = self._open[row]
        self._open[row] += 1
        return before, self._said.get(row, _UNKNOWN)

    def fails(self, row: int, why: str) -> None:
        """Note the last words of a worker."""
        self._said[row] = why

    def end(self, row: int) -> None:
        """Forget a row that is done."""
        del self._open[row]
        self._said.pop(row, None)
