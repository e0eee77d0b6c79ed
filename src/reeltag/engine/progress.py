"""Where a training run stands, as its checkpoints say it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reeltag.metrics import LOWER_IS_BETTER


@dataclass
class Progress:
    """Where a run stands; all of it goes into a checkpoint's state.json."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    clips: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_checkpoint: str | None = None
    stale: int = 0  # validations since the best one
    skipped_in_row: int = 0
    stopped: bool = False
    absent: int = 0  # clips left out because they have none of the model's modalities
    bad_rows: list[int] = field(default_factory=list)

    def is_better(self, value: float, metric: str) -> bool:
        """Return whether a validation's value of the metric beats the best so far; NaN never does."""
        if math.isnan(value) or self.best is None:
            return not math.isnan(value)
        return value < self.best if metric in LOWER_IS_BETTER else value > self.best
