"""The training loop: batches in, steps out, checkpoints that a killed run continues from (home of accelerate)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from reeltag.build import Parts
from reeltag.data.dataset import in_order, make_loader
from reeltag.data.example_order import EpochOrder
from reeltag.engine.averaging import Averaging
from reeltag.engine.interrupt import Interrupt
from reeltag.engine.monitor import Monitor
from reeltag.engine.optim import build_optimizer, flatten_state, rate_factor, restore_state, set_rate
from reeltag.engine.protocol import prepare_model
from reeltag.engine.random_state import random_state, restore_random_state
from reeltag.engine.renewal import NormRenewal
from reeltag.engine.step import Stepper, Update
from reeltag.errors import Diverged, StoreError, TooManyBadFiles
from reeltag.hardware import default_workers, resolve_precision
from reeltag.metrics import LOWER_IS_BETTER
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.models.scoring import model_inputs, score_videos
from reeltag.models.training_loss import training_loss
from reeltag.store.checkpoint import latest_checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint
from reeltag.store.run import RunFolder


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
    bad_rows: list[int] = field(default_factory=list)


class Trainer:
    """Trains the parts of a recipe into a run folder.

    Args:
        parts: what `build_parts` returned.
        run: the run folder.
        device: a torch device, or `auto`.
        workers: loader processes; None chooses by hardware and footage.
        monitor: where progress is shown.
    """

    def __init__(
        self, parts: Parts, run: RunFolder, *, device: str = "auto", workers: int | None = None, monitor: Monitor
    ) -> None:
        self.parts, self.run, self.monitor = parts, run, monitor
        self.train = parts.recipe.train
        # Accelerate fixes its precision for the whole process; ours is each run's own.
        self.bf16 = resolve_precision(self.train.precision, device) == "bf16"
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.device = self.accelerator.device
        self.workers = default_workers(self.device, parts.training.footage.packed) if workers is None else workers
        self.order = EpochOrder(
            parts.train_rows,
            self.train.batch_size,
            seed=self.train.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            weights=parts.weights,
        )
        self.total_steps = max(1, math.ceil(round(self.train.epochs * self.order.num_batches, 6)))
        processes = self.accelerator.num_processes
        model = prepare_model(parts.model, self.train, processes=processes, device=self.device.type).to(self.device)
        self.model: nn.Module
        self.optimizer: Optimizer
        self.model, self.optimizer = self.accelerator.prepare(model, build_optimizer(model, self.train))
        self.averaging = Averaging(self.train, self.order.num_batches)
        self.stepper = Stepper(
            model,
            self.optimizer,
            self.train,
            self._loss,
            backward=self.accelerator.backward,
            clip=self.accelerator.clip_grad_norm_,
            no_sync=lambda: self.accelerator.no_sync(self.model),
            agree=self._in_any_process,
        )
        self.norms = NormRenewal(
            self.averaging,
            self._some_batches,
            self._logits,
            lambda values: self.accelerator.reduce(values, reduction="sum"),
        )
        self.at = Progress()

    def fit(self, *, resume: bool = False) -> Progress:
        """Train to the end and return where the run stands; with `resume`, from the newest whole checkpoint on."""
        if resume:
            self.resume()
        saved_at = time.monotonic()
        with self.monitor.watch(self.total_steps, self.at.step), Interrupt() as interrupt:
            while self.at.step < self.total_steps and not self.at.stopped:
                for batch, waited_s in self._batches(interrupt):
                    self._step(batch, waited_s)
                    if self.at.step >= self.total_steps or interrupt.asked:
                        break
                    if time.monotonic() - saved_at >= self.train.checkpoint_every_s and self._mid_epoch():
                        self.save()
                        saved_at = time.monotonic()
                if interrupt.asked and self.at.step < self.total_steps and self._mid_epoch():
                    self.save()
                    raise KeyboardInterrupt
                self._end_of_epoch()
                saved_at = time.monotonic()
        return self.at

    def _batches(self, interrupt: Interrupt) -> Iterator[tuple[dict[str, Any], float]]:
        """Yield the batches of this epoch from where the run stands, each with the seconds waited for it."""
        self.order.set_position(self.at.epoch, self.at.batch)
        asked = time.perf_counter()
        loader = make_loader(self.parts.training, self.order, workers=self.workers, seed=self.train.seed)
        try:
            for batch in loader:
                yield batch, time.perf_counter() - asked
                asked = time.perf_counter()
        except RuntimeError:
            if not interrupt.asked:
                raise  # after Ctrl-C the loader's workers are gone, which is no error of theirs

    def _step(self, batch: dict[str, Any], waited_s: float) -> None:
        started = time.perf_counter()
        self._note_bad_files(batch["bad"])
        rate = self.train.lr * rate_factor((self.at.step + 1) / self.order.num_batches, self.train)
        loss_value = math.nan
        if len(batch["rows"]):
            set_rate(self.optimizer, rate)
            loss_value = self._update(batch)
        self.at.step += 1
        self.at.batch += 1
        self.at.clips += len(batch["rows"]) * self.accelerator.num_processes
        self.at.seconds += waited_s + time.perf_counter() - started
        line = self.monitor.step(self.at.step, self.at.step / self.order.num_batches, loss_value, rate,
                                 len(batch["rows"]) * self.accelerator.num_processes, waited_s)  # fmt: skip
        if line and self.accelerator.is_main_process:
            self.run.log(line)

    def _update(self, batch: dict[str, Any]) -> float:
        """One optimiser step, and what follows it in the average of the weights; returns the loss."""
        update = self.stepper(batch)
        if update.skipped:
            self._note_skipped(update, batch)
            return math.nan
        self.at.skipped_in_row = 0
        self.averaging.after_step(self.accelerator.unwrap_model(self.model), self.at.step + 1)
        return update.loss

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, float]:
        """Return the loss of a batch or a part of one, to go backward from, and its value."""
        logits = self._logits(batch)
        ignore = batch["ignore"].to(self.device) if bool(batch["ignore"].any()) else None
        model, targets = self.accelerator.unwrap_model(self.model), batch["targets"].to(self.device)
        loss = training_loss(model, logits.float(), targets, self.parts.loss, ignore=ignore)
        return loss, float(loss.detach())

    def _logits(self, batch: dict[str, Any]) -> Tensor:
        inputs = model_inputs(batch, self.device)  # one view a clip
        with self._autocast():
            return self.model(*inputs)

    def _in_any_process(self, found: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return found
        return bool(self.accelerator.gather(torch.tensor([found], device=self.device)).any())

    def _note_skipped(self, update: Update, batch: dict[str, Any]) -> None:
        """Log the videos of a step that was not made; stop when too many follow one another."""
        self.at.skipped_in_row += 1
        ids = self.parts.training.footage.manifest.video_ids
        videos = gather_object([ids[row] for row in batch["rows"].tolist()])
        step = self.at.step + 1
        if self.accelerator.is_main_process:
            self.run.log({"step": step, "skipped": update.skipped, "videos": videos})
            shown = ", ".join(videos[:4]) + (", ..." if len(videos) > 4 else "")
            self.monitor.note(f"step {step} left out: {update.skipped}; videos {shown}")
        if self.at.skipped_in_row >= self.train.max_skipped:
            raise Diverged(
                f"{update.skipped} at step {step}, and {self.at.skipped_in_row} steps in a row were left out; "
                f"lower train.lr, set train.clip_norm=5, or resume {self.run.path} with a smaller rate"
            )

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _mid_epoch(self) -> bool:
        return self.at.batch < self.order.num_batches

    def _end_of_epoch(self) -> None:
        """Validate when it is time, finish SWA, move to the next epoch and save."""
        finished = self.at.step >= self.total_steps
        if self.at.batch >= self.order.num_batches:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        every = self.train.evaluate_every
        if finished or (every is not None and self.at.epoch % max(1, round(every)) == 0):
            self._judge(keep=not (finished and self.averaging.to_finish))
        if (finished or self.at.stopped) and self.train.swa is not None and self.averaging.to_finish:
            self.norms.finish(self.accelerator.unwrap_model(self.model), self.train.swa.norm_batches)
            self.monitor.note(f"averaged the weights at the end of {self.averaging.count} cycles")
            self._judge()
        self.save()

    def _judge(self, *, keep: bool = True) -> None:
        """Validate; with `keep`, note what is best, and stop when nothing has been better for too long."""
        if self.train.precise_norms:
            self.norms.before_validation(self.accelerator.unwrap_model(self.model), self.train.precise_norms)
        value = self.validate() if self.parts.val_rows else None
        if value is None or not keep:
            return
        if self._is_better(value):
            self.at.best, self.at.best_checkpoint, self.at.stale = value, f"step_{self.at.step:08d}", 0
            return
        self.at.stale += 1
        if self.train.patience is not None and self.at.stale >= self.train.patience and not self.at.stopped:
            self.at.stopped = True
            self.monitor.note(f"stopped: {self.train.best_by} was not better in the last {self.at.stale} validations")

    def _some_batches(self, count: int | None) -> Iterator[dict[str, Any]]:
        """Yield the first training batches of the coming epoch, for the statistics of batch norms."""
        self.order.set_position(self.at.epoch)
        loader = make_loader(self.parts.training, self.order, workers=self.workers, seed=self.train.seed)
        yield from (batch for batch in islice(loader, count) if len(batch["rows"]))

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or self.at.best is None:
            return not math.isnan(value)
        lower = self.train.best_by in LOWER_IS_BETTER
        return value < self.at.best if lower else value > self.at.best

    def validate(self) -> float:
        """Score the validation rows, log every metric and return the one that `best_by` names."""
        rows = self.parts.val_rows[self.accelerator.process_index :: self.accelerator.num_processes]
        keys = in_order(rows, max(1, self.train.batch_size // self.parts.test.view.num_views))
        loader = make_loader(self.parts.test, keys, workers=self.workers)
        with self.averaging.for_evaluation(self.accelerator.unwrap_model(self.model)):
            found = list(
                score_videos(
                    self.model,
                    self.monitor.over(loader, "validating"),
                    average=self.parts.recipe.test.average,
                    device=self.device,
                    autocast=self._autocast,
                )
            )
        scored = [part for part in found if len(part.rows)]
        if not scored:
            raise TooManyBadFiles("no clip of the validation split could be read; run `reeltag data check MANIFEST`")
        rows_seen = self.accelerator.gather_for_metrics(torch.cat([part.rows for part in scored]).to(self.device)).cpu()
        scores = self.accelerator.gather_for_metrics(torch.cat([part.scores for part in scored]).to(self.device)).cpu()
        test = self.parts.test
        results = evaluate_scores(scores, test.targets[rows_seen], test.ignore[rows_seen])
        values = {name: value for name, value in results.values.items() if not math.isnan(value)}
        if self.accelerator.is_main_process:
            weights = {"weights": "average"} if self.averaging.in_use else {}
            epoch = self.at.step / self.order.num_batches
            self.run.log({"step": self.at.step, "epoch": epoch, "val": values, **weights})
            self.monitor.validated(self.at.step / self.order.num_batches, values)
        return values.get(self.train.best_by, math.nan)

    def _note_bad_files(self, bad: list[dict[str, Any]]) -> None:
        """List each unreadable file once; stop when they are more than the recipe allows."""
        for line in bad:
            if line["row"] in self.at.bad_rows:
                continue
            self.at.bad_rows.append(line["row"])
            self.run.log_bad_file(line)
            self.monitor.note(f"skipped {line['path']}: {line['reason']}: {line['message']}")
        allowed = math.floor(self.parts.recipe.data.max_bad * len(self.parts.train_rows))
        if len(self.at.bad_rows) > allowed:
            raise TooManyBadFiles(
                f"{len(self.at.bad_rows)} of {len(self.parts.train_rows)} training files cannot be read, "
                f"data.max_bad={self.parts.recipe.data.max_bad} allows {allowed}; mend or remove the files listed in "
                f"{self.run.bad_files}, or raise data.max_bad"
            )

    def save(self) -> None:
        """Write a checkpoint from which `resume` goes on exactly, and drop old ones."""
        if not self.accelerator.is_main_process:
            return
        tensors, rest = flatten_state(self.optimizer)
        model = self.accelerator.unwrap_model(self.model)
        path = save_checkpoint(
            self.run.checkpoints,
            self.at.step,
            {**self.averaging.checkpoint(model), "optimizer": tensors, "rng": random_state()},
            {**vars(self.at), "optimizer": rest, "averaging": self.averaging.state,
             "recipe_hash": self.parts.recipe.hash, "total_steps": self.total_steps,
             "label_names": self.parts.label_names},
        )  # fmt: skip
        best = self.run.checkpoints / self.at.best_checkpoint if self.at.best_checkpoint else path
        prune_checkpoints(self.run.checkpoints, keep=3, also=best)

    def resume(self) -> None:
        """Put back the newest whole checkpoint; StoreError when there is none or it is of another recipe."""
        path = latest_checkpoint(self.run.checkpoints)
        if path is None:
            self.run.rewind(0, [])
            return  # killed before the first checkpoint: the run starts again from the same seed
        tensors, state = load_checkpoint(path)
        if state["recipe_hash"] != self.parts.recipe.hash:
            raise StoreError(f"{path} was trained with another recipe; resume without overrides, or start a new --out")
        if state["label_names"] != self.parts.label_names:
            raise StoreError(f"{path} has {len(state['label_names'])} labels, not those of this manifest; give its own")
        self.averaging.restore(self.accelerator.unwrap_model(self.model), tensors, state["averaging"])
        restore_state(self.optimizer, tensors["optimizer"], state["optimizer"])
        restore_random_state(tensors["rng"])
        self.at = Progress(**{name: state[name] for name in vars(Progress())})
        self.run.rewind(self.at.step, self.at.bad_rows)
