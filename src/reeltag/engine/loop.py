"""The training loop: batches in, steps out, checkpoints that a killed run continues from (home of accelerate)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from reeltag.build import Parts
from reeltag.data.dataset import in_order, make_loader
from reeltag.data.example_order import EpochOrder
from reeltag.engine.global_batch import in_step, loss_of_all, seed_forward, seed_loss, stand_in
from reeltag.engine.interrupt import Interrupt
from reeltag.engine.monitor import Monitor
from reeltag.engine.optim import build_optimizer, flatten_state, rate_factor, restore_state, set_rate
from reeltag.engine.random_state import random_state, restore_random_state
from reeltag.engine.sharded import accelerate_asks_for_shards, restore_whole_state, shard, whole_state
from reeltag.errors import Diverged, RecipeError, StoreError, TooManyBadFiles
from reeltag.hardware import default_workers, resolve_device, resolve_precision
from reeltag.metrics import LOWER_IS_BETTER
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.metrics.streaming import Accumulator
from reeltag.models.scoring import score_videos
from reeltag.processes import current
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
    bad_rows: list[int] = field(default_factory=list)


class Trainer:
    """Trains the parts of a recipe into a run folder, on all the processes that `processes.join` has connected.

    Args:
        parts: what `build_parts` returned.
        run: the run folder.
        device: a torch device, or `auto`.
        workers: loader processes of each process; None chooses by hardware and footage.
        monitor: where progress is shown.
        sharded: keep a part of weights and optimiser on each process, not all of them on every one.
    """

    def __init__(
        self,
        parts: Parts,
        run: RunFolder,
        *,
        device: str = "auto",
        workers: int | None = None,
        monitor: Monitor,
        sharded: bool = False,
    ) -> None:
        self.parts, self.run, self.monitor = parts, run, monitor
        self.train = parts.recipe.train
        self.processes = current()
        if self.train.batch_size < self.processes.world:
            raise RecipeError(
                f"train.batch_size {self.train.batch_size} is for all {self.processes.world} processes together; "
                "start fewer, or make it larger"
            )
        # Accelerate fixes its precision for the whole process; ours is each run's own.
        self.bf16 = resolve_precision(self.train.precision, device) == "bf16"
        self.sharded = (accelerate_asks_for_shards() or sharded) and self.processes.world > 1
        self.accelerator = self._accelerator(device)
        self.device = self.accelerator.device
        self.workers = default_workers(self.device, parts.training.footage.packed) if workers is None else workers
        self.order = EpochOrder(
            parts.train_rows,
            self.train.batch_size,
            seed=self.train.seed,
            rank=self.processes.rank,
            world=self.processes.world,
            weights=parts.weights,
        )
        self.total_steps = max(1, math.ceil(self.train.epochs * self.order.num_batches))
        model = parts.model.to(self.device)
        self.model: nn.Module
        self.optimizer: Optimizer
        if self.sharded:
            self.model = shard(model, self.device.type)
            self.optimizer = build_optimizer(self.model, self.train)
        else:
            self.model, self.optimizer = self.accelerator.prepare(model, build_optimizer(model, self.train))
        self.at = Progress()

    def _accelerator(self, device: str) -> Accelerator:
        many = self.processes.world > 1
        on_cpu = device == "cpu" or (many and resolve_device(device).type == "cpu")
        if not many:
            return Accelerator(cpu=on_cpu)
        # Told to look for unused parameters, DDP keeps its first order of summing gradients; it would otherwise change
        # it after one step, and a resumed run would round differently from one that was never stopped.
        made = Accelerator(cpu=on_cpu, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
        if made.num_processes != self.processes.world:
            raise RuntimeError(f"accelerate sees {made.num_processes} processes of {self.processes.world}")
        return made

    def fit(self, *, resume: bool = False) -> Progress:
        """Train to the end and return where the run stands; with `resume`, from the newest whole checkpoint on."""
        if resume:
            self.resume()
        saved_at = time.monotonic()
        with self.monitor.watch(self.total_steps, self.at.step), Interrupt() as interrupt:
            while self.at.step < self.total_steps:
                stop = False
                for batch, waited_s in self._batches(interrupt):
                    self._step(batch, waited_s)
                    due = self.processes.is_main and time.monotonic() - saved_at >= self.train.checkpoint_every_s
                    stop, due = self.processes.any(interrupt.asked, due)
                    if self.at.step >= self.total_steps or stop:
                        break
                    if due and self._mid_epoch():
                        self.save()
                        saved_at = time.monotonic()
                if (stop or interrupt.asked) and self.at.step < self.total_steps and self._mid_epoch():
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
        each = self.processes.counts(len(batch["rows"]), len(batch["bad"]))
        counts, num_clips = [clips for clips, _ in each], sum(clips for clips, _ in each)
        bad = self.processes.objects(batch["bad"]) if any(bad for _, bad in each) else []
        self._note_bad_files([line for part in bad for line in part])
        rate = self.train.lr * rate_factor((self.at.step + 1) / self.order.num_batches, self.train)
        loss_value = math.nan
        if num_clips:
            set_rate(self.optimizer, rate)
            loss_value = self._update(batch if len(batch["rows"]) else self._stand_in(), counts)
        self.at.step += 1
        self.at.batch += 1
        self.at.clips += num_clips
        self.at.seconds += waited_s + time.perf_counter() - started
        line = self.monitor.step(self.at.step, self.at.step / self.order.num_batches, loss_value, rate,
                                 num_clips, waited_s)  # fmt: skip
        if line and self.processes.is_main:
            self.run.log(line)

    def _update(self, batch: dict[str, Any], counts: list[int]) -> float:
        """One optimiser step; returns the loss."""
        video = batch["video"].to(self.device, non_blocking=True).flatten(0, 1)  # (B, T, C, H, W): one view a clip
        if self.processes.world > 1:
            seed_forward(self.processes, self.train.seed, self.at.step)
        with self._autocast():
            logits = self.model(video)
        loss, value = self._loss(logits.float(), batch, counts)
        if not math.isfinite(value):
            raise Diverged(
                f"the loss became {value} at step {self.at.step + 1}; lower train.lr, set train.clip_norm=5, "
                f"or resume {self.run.path} with a smaller rate"
            )
        self.accelerator.backward(loss)
        if self.train.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def _loss(self, logits: Tensor, batch: dict[str, Any], counts: list[int]) -> tuple[Tensor, float]:
        """Return what to go backward from, and the loss of the whole batch."""
        targets = batch["targets"].to(self.device)
        if self.processes.world > 1:
            seed_loss(self.train.seed, self.at.step)
            return loss_of_all(self.parts.loss, self.processes, logits, targets, batch["ignore"], counts)
        ignore = batch["ignore"].to(self.device) if bool(batch["ignore"].any()) else None
        loss = self.parts.loss(logits, targets, ignore=ignore)
        return loss, float(loss.detach())

    def _stand_in(self) -> dict[str, Any]:
        return stand_in(self.parts.training, self.at.epoch, self.parts.train_rows)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _mid_epoch(self) -> bool:
        return self.at.batch < self.order.num_batches

    def _end_of_epoch(self) -> None:
        """Validate when it is time, move to the next epoch and save."""
        finished = self.at.step >= self.total_steps
        if self.at.batch >= self.order.num_batches:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        every = self.train.evaluate_every
        due = finished or (every is not None and self.at.epoch % max(1, round(every)) == 0)
        value = self.validate() if due and self.parts.val_rows else None
        is_best = value is not None and self._is_better(value)
        if is_best:
            self.at.best, self.at.best_checkpoint = value, f"step_{self.at.step:08d}"
        self.save()

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or self.at.best is None:
            return not math.isnan(value)
        lower = self.train.best_by in LOWER_IS_BETTER
        return value < self.at.best if lower else value > self.at.best

    def validate(self) -> float:
        """Score the validation rows, log every metric and return the one that `best_by` names."""
        test, processes = self.parts.test, self.processes
        size = max(1, self.train.batch_size // processes.world // test.view.num_views)
        loader: Any = make_loader(test, in_order(processes.share(self.parts.val_rows), size), workers=self.workers)
        batches: Any = self.monitor.over(loader, "validating")
        processes.same_buffers(self.model)
        if self.sharded:
            most = max(count for (count,) in processes.counts(len(loader)))
            batches = in_step(batches, most, lambda: stand_in(test, 0, self.parts.val_rows))
        # Past DDP, whose forward passes exchange buffers and so would have to be as many on every process.
        model = self.model if self.sharded else self.accelerator.unwrap_model(self.model)
        seen = Accumulator()
        for part in score_videos(
            model, batches, average=self.parts.recipe.test.average, device=self.device, autocast=self._autocast
        ):
            rows = part.rows[part.rows >= 0]
            if len(rows):
                seen.add(part.scores, test.targets[rows], test.ignore[rows], rows=rows)
        parts = processes.to_main(seen)
        values = processes.from_main(lambda: self._measure(Accumulator.merged(parts)))
        if processes.is_main:
            self.run.log({"step": self.at.step, "epoch": self.at.step / self.order.num_batches, "val": values})
            self.monitor.validated(self.at.step / self.order.num_batches, values)
        return values.get(self.train.best_by, math.nan)

    @staticmethod
    def _measure(seen: Accumulator) -> dict[str, float]:
        if not len(seen):
            raise TooManyBadFiles("no clip of the validation split could be read; run `reeltag data check MANIFEST`")
        pairs = seen.pairs()
        values = evaluate_scores(pairs, pairs.targets).values
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def _note_bad_files(self, bad: list[dict[str, Any]]) -> None:
        """List each unreadable file once; stop when they are more than the recipe allows."""
        for line in bad:
            if line["row"] in self.at.bad_rows:
                continue
            self.at.bad_rows.append(line["row"])
            if self.processes.is_main:
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
        if self.sharded:
            weights, tensors, rest = whole_state(self.model, self.optimizer)
        if not self.processes.is_main:
            return
        if not self.sharded:
            weights = self.accelerator.unwrap_model(self.model).state_dict()
            tensors, rest = flatten_state(self.optimizer)
        path = save_checkpoint(
            self.run.checkpoints,
            self.at.step,
            {"model": weights, "optimizer": tensors, "rng": random_state()},
            {**vars(self.at), "optimizer": rest, "recipe_hash": self.parts.recipe.hash,
             "total_steps": self.total_steps, "label_names": self.parts.label_names},
        )  # fmt: skip
        best = self.run.checkpoints / self.at.best_checkpoint if self.at.best_checkpoint else path
        prune_checkpoints(self.run.checkpoints, keep=3, also=best)

    def resume(self) -> None:
        """Put back the newest whole checkpoint; StoreError when there is none or it is of another recipe."""
        path = self.processes.from_main(lambda: latest_checkpoint(self.run.checkpoints))
        if path is None:
            self.processes.from_main(lambda: self.run.rewind(0, []))
            return  # killed before the first checkpoint: the run starts again from the same seed
        tensors, state = load_checkpoint(path)
        if state["recipe_hash"] != self.parts.recipe.hash:
            raise StoreError(f"{path} was trained with another recipe; resume without overrides, or start a new --out")
        if state["label_names"] != self.parts.label_names:
            raise StoreError(f"{path} has {len(state['label_names'])} labels, not those of this manifest; give its own")
        if self.sharded:
            restore_whole_state(self.model, self.optimizer, tensors["model"], tensors["optimizer"], state["optimizer"])
        else:
            self.accelerator.unwrap_model(self.model).load_state_dict(tensors["model"])
            restore_state(self.optimizer, tensors["optimizer"], state["optimizer"])
        restore_random_state(tensors["rng"])
        self.at = Progress(**{name: state[name] for name in vars(Progress())})
        self.processes.from_main(lambda: self.run.rewind(self.at.step, self.at.bad_rows))
