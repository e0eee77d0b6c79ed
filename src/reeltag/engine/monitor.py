"""What a person sees while training runs: clips/s, the share of time spent waiting for data, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
_PLAIN_EVERY_S = 15.0


class Monitor:
    """Shows progress on standard error and thins it out into the lines of metrics.jsonl.

    Args:
        console: where to show it; None shows nothing.
        tensorboard: a folder for TensorBoard events, or None.
    """

    def __init__(self, console: Console | None = None, tensorboard: Path | None = None) -> None:
        self.console = console
        self._tensorboard = tensorboard
        self._writer: Any = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._every = 1
        self._reset_window()

    def _reset_window(self) -> None:
        self._window_start = time.perf_counter()
        self._losses: list[float] = []
        self._clips = 0
        self._waited_s = 0.0

    @contextmanager
    def watch(self, total_steps: int, done: int) -> Iterator[None]:
        """Show a bar over `total_steps`, of which `done` are behind us."""
        self._every = max(1, total_steps // 500)
        self._total, self._begin_step, self._begin_s = total_steps, done, time.perf_counter()
        self._said_s = self._begin_s
        self._reset_window()
        if self._tensorboard is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard))
        live = self.console is not None and self.console.is_terminal
        if live:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]:.1f}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=total_steps, completed=done, epoch=0.0, state="")
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
            if self._writer is not None:
                self._writer.close()

    def step(
        self, step: int, epoch: float, loss: float, rate: float, clips: int, waited_s: float
    ) -> dict[str, Any] | None:
        """Take note of one optimiser step; returns a line for metrics.jsonl when one is due."""
        if not math.isnan(loss):
            self._losses.append(loss)
        self._clips += clips
        self._waited_s += waited_s
        if step % self._every and step != self._total:
            return None
        elapsed_s = max(time.perf_counter() - self._window_start, 1e-9)
        line = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "lr": rate,
            "clips_per_s": round(self._clips / elapsed_s, 2),
            "wait_share": round(min(1.0, self._waited_s / elapsed_s), 4),
        }
        self._show(line)
        self._reset_window()
        return line

    def _show(self, line: dict[str, Any]) -> None:
        loss = "-" if line["loss"] is None else f"{line['loss']:.4f}"
        state = f"loss {loss}  {line['clips_per_s']:.0f} clips/s  {line['wait_share']:.0%} waiting for data"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=line["step"], epoch=line["epoch"], state=state)
        elif self.console is not None and time.perf_counter() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.perf_counter()
            done = line["step"] - self._begin_step
            left_s = (self._said_s - self._begin_s) / max(done, 1) * (self._total - line["step"])
            self.console.print(
                f"step {line['step']}/{self._total}  epoch {line['epoch']:.1f}  {state}  {format_s(left_s)} left",
                highlight=False,
                soft_wrap=True,
            )
        if self._writer is not None:
            for name in ("loss", "lr", "clips_per_s", "wait_share"):
                if line[name] is not None:
                    self._writer.add_scalar(f"train/{name}", line[name], line["step"])
        self._last_step = line["step"]

    def validated(self, epoch: float, values: dict[str, float]) -> None:
        """Show the main validation metrics."""
        shown = [name for name in ("map_macro", "map_micro", "map_samples", "gap_at_20", "hit_at_1") if name in values]
        self.note(f"epoch {epoch:.1f}  val " + "  ".join(f"{name} {values[name]:.4f}" for name in shown))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"val/{name}", value, self._last_step)

    def note(self, text: str) -> None:
        """Show one line of text."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def over(self, items: Iterable[Item], what: str) -> Iterator[Item]:
        """Yield the items of a loader, with a bar of its own while a terminal watches."""
        if self._progress is None:
            yield from items
            return
        total = len(items) if isinstance(items, Sized) else None
        task = self._progress.add_task("", total=total, epoch=0.0, state=what)
        for item in items:
            yield item
            self._progress.advance(task)
        self._progress.remove_task(task)


def format_s(seconds: float) -> str:
    """Return a time span as people say it: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
