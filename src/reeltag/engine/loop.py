"""The training loop: batches in, steps out, checkpoints that a killed run continues from (home of accelerate)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from reeltag.build import Parts
from reeltag.data.dataset import make_loader
from reeltag.data.example_order import EpochOrder
from reeltag.engine.averaging import Averaging
from reeltag.engine.global_batch import seed_forward, seed_loss, shares_of_all, stand_in, training_loss_of_all
from reeltag.engine.interrupt import Interrupt
from reeltag.engine.monitor import Monitor
from reeltag.engine.optim import build_optimizer, flatten_state, rate_factor, restore_state, set_rate
from reeltag.engine.progress import Progress
from reeltag.engine.protocol import prepare_model
from reeltag.engine.random_state import random_state, restore_random_state
from reeltag.engine.renewal import NormRenewal
from reeltag.engine.sharded import (
    accelerate_asks_for_shards,
    check_shardable,
    clip_grad_norm,
    restore_whole_state,
    shard,
    whole_state,
)
from reeltag.engine.step import Stepper, Update
from reeltag.engine.validation import measure_rows
from reeltag.errors import Diverged, ManifestError, RecipeError, StoreError, TooManyBadFiles
from reeltag.hardware import default_workers, resolve_device, resolve_precision
from reeltag.models.scoring import model_inputs
from reeltag.models.training_loss import training_loss
from reeltag.processes import current
from reeltag.store.checkpoint import latest_checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint
from reeltag.store.run import RunFolder


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
        if self.sharded:
            check_shardable(self.train)
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
        self.total_steps = max(1, math.ceil(round(self.train.epochs * self.order.num_batches, 6)))
        world = self.processes.world
        model = prepare_model(parts.model, self.train, processes=world, device=self.device.type).to(self.device)
        self._distribute(model)
        self.averaging = Averaging(self.train, self.order.num_batches)
        many = self.processes.world > 1
        self.stepper = Stepper(
            self.net,
            self.optimizer,
            self.train,
            self._loss,
            backward=self._backward,
            clip=clip_grad_norm if self.sharded else self.accelerator.clip_grad_norm_,
            no_sync=nullcontext if self.sharded else lambda: self.accelerator.no_sync(self.model),
            agree=lambda found: self.processes.any(found)[0],
            split=(lambda batch, count: shares_of_all(batch, count, self.processes.rank)) if many else None,
        )
        self.norms = NormRenewal(
            self.averaging,
            self._some_batches,
            lambda batch: self._logits(self.net, batch),
            lambda values: self.accelerator.reduce(values, reduction="sum"),
        )
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

    def _distribute(self, model: nn.Module) -> None:
        """Set the model as it is called in training, without its wrapper (`net`), and its optimiser."""
        self.model: nn.Module
        self.net: nn.Module
        self.optimizer: Optimizer
        if self.sharded:
            self.model = self.net = shard(model, self.device.type)
            self.optimizer = build_optimizer(self.model, self.train)
        else:
            self.model, self.optimizer = self.accelerator.prepare(model, build_optimizer(model, self.train))
            self.net = self.accelerator.unwrap_model(self.model)

    def fit(self, *, resume: bool = False) -> Progress:
        """Train to the end and return where the run stands; with `resume`, from the newest whole checkpoint on."""
        if resume:
            self.resume()
        saved_at = time.monotonic()
        with self.monitor.watch(self.total_steps, self.at.step), Interrupt() as interrupt:
            while self.at.step < self.total_steps and not self.at.stopped:
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
        each = self.processes.counts(len(batch["rows"]), len(batch["bad"]), len(batch["absent"]))
        counts = [clips for clips, _, _ in each]
        num_clips = sum(counts)
        bad = self.processes.objects(batch["bad"]) if any(bad for _, bad, _ in each) else []
        self._note_bad_files([line for part in bad for line in part])
        self._note_absent(sum(absent for _, _, absent in each))
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
        """One optimiser step, and what follows it in the average of the weights; returns the whole batch's loss."""
        update = self.stepper({**batch, "counts": counts})
        if update.skipped:
            self._note_skipped(update, batch)
            return math.nan
        self.at.skipped_in_row = 0
        self.averaging.after_step(self.net, self.at.step + 1)
        return update.loss

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, float]:
        """Return what to go backward from for a batch or a part of one, and the loss over all processes."""
        if self.processes.world > 1:
            seed_forward(self.processes, self.train.seed, self.at.step, batch["part"])
            logits = self._logits(self.model, batch).float()
            seed_loss(self.train.seed, self.at.step, batch["part"])
            return training_loss_of_all(self.net, self.parts.loss, self.processes, logits, batch)
        logits = self._logits(self.model, batch)
        ignore = batch["ignore"].to(self.device) if bool(batch["ignore"].any()) else None
        targets = batch["targets"].to(self.device)
        loss = training_loss(self.net, logits.float(), targets, self.parts.loss, ignore=ignore)
        return loss, float(loss.detach())

    def _backward(self, loss: Tensor) -> None:
        with warnings.catch_warnings():
            # DDP tells strides of axes of size 1 apart, and a kernel of one channel has its gradient in either order.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            self.accelerator.backward(loss)

    def _logits(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        inputs = model_inputs(self.net, batch, self.device)  # one view a clip
        with self._autocast():
            logits: Tensor = model(*inputs)
        return logits

    def _note_skipped(self, update: Update, batch: dict[str, Any]) -> None:
        """Log the videos of a step that was not made; stop when too many follow one another."""
        self.at.skipped_in_row += 1
        ids = self.parts.training.footage.manifest.video_ids
        own = [ids[row] for row in batch["rows"].tolist() if row >= 0]
        videos = [name for part in self.processes.objects(own) for name in part]
        step = self.at.step + 1
        if self.processes.is_main:
            self.run.log({"step": step, "skipped": update.skipped, "videos": videos})
            shown = ", ".join(videos[:4]) + (", ..." if len(videos) > 4 else "")
            self.monitor.note(f"step {step} left out: {update.skipped}; videos {shown}")
        if self.at.skipped_in_row >= self.train.max_skipped:
            raise Diverged(
                f"{update.skipped} at step {step}, and {self.at.skipped_in_row} steps in a row were left out; "
                f"lower train.lr, set train.clip_norm=5, or resume {self.run.path} with a smaller rate"
            )

    def _stand_in(self) -> dict[str, Any]:
        return stand_in(self.parts.training, self.at.epoch, self.parts.train_rows)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _mid_epoch(self) -> bool:
        return self.at.batch < self.order.num_batches

    def _end_of_epoch(self) -> None:
        """Validate when it is time, finish SWA, move to the next epoch and save."""
        finished = self.at.step >= self.total_steps
        if not self.at.clips:
            raise ManifestError(
                f"none of {self.at.absent} training clips that were drawn has what the model takes (no sound track, "
                "or a silent one); `reeltag data check` counts files with sound, data.audio.silence_db is the limit"
            )
        if self.at.batch >= self.order.num_batches:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        every = self.train.evaluate_every
        if finished or (every is not None and self.at.epoch % max(1, round(every)) == 0):
            self._judge(keep=not (finished and self.averaging.to_finish))
        if (finished or self.at.stopped) and self.train.swa is not None and self.averaging.to_finish:
            self.norms.finish(self.net, self.train.swa.norm_batches)
            self.monitor.note(f"averaged the weights at the end of {self.averaging.count} cycles")
            self._judge()
        self.save()

    def _judge(self, *, keep: bool = True) -> None:
        """Validate; with `keep`, note what is best, and stop when nothing has been better for too long."""
        if self.train.precise_norms:
            self.norms.before_validation(self.net, self.train.precise_norms)
        value = self.validate() if self.parts.val_rows else None
        if value is None or not keep:
            return
        if self.at.is_better(value, self.train.best_by):
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
        for batch in islice(loader, count):
            empty = not len(batch["rows"])
            if self.train.sync_norms:  # these norms exchange statistics in every forward pass: all make it, or none
                empty = self.processes.any(empty)[0]
            if not empty:
                yield batch

    def validate(self) -> float:
        """Score the validation rows, log every metric and return the one that `best_by` names."""
        with self.averaging.for_evaluation(self.net):
            values = measure_rows(
                self.net,
                self.parts.test,
                self.parts.val_rows,
                self.processes,
                batch_size=self.train.batch_size,
                workers=self.workers,
                average=self.parts.recipe.test.average,
                activation=self.parts.recipe.test.activation,
                device=self.device,
                autocast=self._autocast,
                watched=self.monitor.over,
                sharded=self.sharded,
            )
        if self.processes.is_main:
            weights = {"weights": "average"} if self.averaging.in_use else {}
            epoch = self.at.step / self.order.num_batches
            self.run.log({"step": self.at.step, "epoch": epoch, "val": values, **weights})
            self.monitor.validated(self.at.step / self.order.num_batches, values)
        return values.get(self.train.best_by, math.nan)

    def _note_absent(self, count: int) -> None:
        """Count the clips that have none of the model's modalities; they are good files, and left out of the loss."""
        if count and not self.at.absent:
            self.monitor.note("some clips have no sound track, or a silent one: nothing for this model to learn from")
        self.at.absent += count

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
            weights, tensors, rest = whole_state(self.net, self.optimizer)
            groups = {"model": weights}
        if not self.processes.is_main:
            return
        if not self.sharded:
            groups = self.averaging.checkpoint(self.net)
            tensors, rest = flatten_state(self.optimizer)
        path = save_checkpoint(
            self.run.checkpoints,
            self.at.step,
            {**groups, "optimizer": tensors, "rng": random_state()},
            {**vars(self.at), "optimizer": rest, "averaging": self.averaging.state,
             "recipe_hash": self.parts.recipe.hash, "total_steps": self.total_steps,
             "label_names": self.parts.label_names},
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
            restore_whole_state(self.net, self.optimizer, tensors["model"], tensors["optimizer"], state["optimizer"])
        else:
            self.averaging.restore(self.net, tensors, state["averaging"])
            restore_state(self.optimizer, tensors["optimizer"], state["optimizer"])
        restore_random_state(tensors["rng"])
        self.at = Progress(**{name: state[name] for name in vars(Progress())})
        self.processes.from_main(lambda: self.run.rewind(self.at.step, self.at.bad_rows))
