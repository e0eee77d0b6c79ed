"""The learning-rate range test: the loss while the rate rises, and the rate at which it falls fastest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reeltag.build import Parts
from reeltag.data.dataset import make_loader
from reeltag.data.example_order import EpochOrder
from reeltag.engine.optim import build_optimizer, set_rate
from reeltag.engine.protocol import prepare_model
from reeltag.engine.step import Batch, Stepper
from reeltag.errors import Diverged
from reeltag.hardware import default_workers, resolve_device, resolve_precision
from reeltag.models.scoring import model_inputs
from reeltag.models.training_loss import training_loss
from reeltag.store.atomic import atomic_path, write_json

_MEMORY = 0.9  # of the running mean of the loss
_EXPLODED = 4.0  # times the lowest loss


@dataclass(frozen=True)
class LrCurve:
    """What the range test saw.

    Attributes:
        rates: of each step.
        losses: of each step's batch, before the step.
        smoothed: their running mean.
        suggestion: the rate at which the smoothed loss falls fastest over the logarithm of the rate.
        lowest: the rate at which it is lowest; a tenth of it is the other usual choice.
        fell: the share by which the smoothed loss fell; where it is small the suggestion is little more than chance.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    lowest: float
    fell: float


def find_lr(
    parts: Parts,
    *,
    device: str = "auto",
    workers: int | None = None,
    steps: int = 100,
    low: float = 1e-6,
    high: float = 10.0,
) -> LrCurve:
    """Train for a few steps while the rate rises from `low` to `high` by a constant factor; nothing is saved.

    Paper: Smith. Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3, with the rate on
    a logarithmic scale. The test ends early when the loss is four times its lowest or no longer finite.

    Args:
        parts: what `build_parts` returned; its model is used up.
        device: a torch device, or `auto`.
        workers: loader processes; None chooses.
        steps: at most as many.
        low: the first rate.
        high: the last one.

    Raises:
        Diverged: the loss was not finite from the start, or the test ended before it had seen enough.
    """
    train, target = parts.recipe.train, resolve_device(device)
    bf16 = resolve_precision(train.precision, device) == "bf16"
    model = prepare_model(parts.model, train).to(target).train()
    optimizer = build_optimizer(model, train)

    def loss_of(batch: Batch) -> tuple[torch.Tensor, float]:
        with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(*model_inputs(model, batch, target))
        ignore = batch["ignore"].to(target) if bool(batch["ignore"].any()) else None
        loss = training_loss(model, logits.float(), batch["targets"].to(target), parts.loss, ignore=ignore)
        return loss, float(loss.detach())

    step = Stepper(model, optimizer, train, loss_of)
    workers = default_workers(target, parts.training.footage.packed) if workers is None else workers
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    for number, batch in zip(range(steps), _batches(parts, workers), strict=False):
        rate = low * (high / low) ** (number / (steps - 1))
        set_rate(optimizer, rate)
        update = step(batch)
        if update.skipped or not math.isfinite(update.loss):
            break
        rates.append(rate)
        losses.append(update.loss)
        smoothed.append(_running_mean(losses))
        if smoothed[-1] > _EXPLODED * min(smoothed):
            break
    return curve_of(rates, losses, smoothed)


def _batches(parts: Parts, workers: int) -> Iterator[Batch]:
    """Yield training batches of one epoch after another, without end."""
    train = parts.recipe.train
    order = EpochOrder(parts.train_rows, train.batch_size, seed=train.seed, weights=parts.weights)
    epoch = 0
    while True:
        order.set_position(epoch)
        yield from (b for b in make_loader(parts.training, order, workers=workers, seed=train.seed) if len(b["rows"]))
        epoch += 1


def _running_mean(losses: list[float]) -> float:
    shares = [_MEMORY**age for age in range(len(losses))]
    return sum(share * loss for share, loss in zip(shares, reversed(losses), strict=True)) / sum(shares)


def curve_of(rates: list[float], losses: list[float], smoothed: list[float]) -> LrCurve:
    """Return the curve with its suggestion; Diverged when it is too short to have a slope.

    Args:
        rates: rising by a constant factor.
        losses: of the same length; `smoothed` their running mean.
    """
    if len(rates) < 5:
        raise Diverged(
            f"the range test ended after {len(rates)} steps with a loss that is not finite or explodes; "
            "set train.clip_norm=5, or look at the data with `reeltag data check`"
        )
    # The mean of the first few batches jumps about; slopes are taken behind them, and over several steps.
    begin, reach = len(rates) // 10, max(1, len(rates) // 20)
    lowest = min(range(begin, len(rates)), key=smoothed.__getitem__)
    places = range(begin + reach, max(lowest, begin + reach + 1))
    ahead = [min(place + reach, len(rates) - 1) for place in places]
    slopes = {place: smoothed[then] - smoothed[place - reach] for place, then in zip(places, ahead, strict=True)}
    steepest = min(slopes, key=slopes.__getitem__)
    fell = 1 - smoothed[lowest] / smoothed[begin] if smoothed[begin] > 0 else 0.0
    return LrCurve(rates, losses, smoothed, rates[steepest], rates[lowest], fell)


def write_curve(curve: LrCurve, folder: Path, lr: float) -> dict[str, Any]:
    """Write `find_lr.json` and `find_lr.png` into a folder and return the suggestion and both paths.

    Args:
        curve: what `find_lr` returned.
        folder: made when it is not there.
        lr: the recipe's own rate, drawn beside the suggestion.
    """
    from matplotlib.figure import Figure

    write_json(folder / "find_lr.json", asdict(curve))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(curve.rates, curve.losses, color="0.8", label="loss of the batch")
    axes.semilogx(curve.rates, curve.smoothed, color="C0", label="running mean")
    axes.axvline(curve.suggestion, color="C1", label=f"falls fastest at {curve.suggestion:.2g}")
    axes.axvline(lr, color="0.4", linestyle=":", label=f"the recipe's {lr:.2g}")
    axes.set_ylim(0.9 * min(curve.smoothed), 1.1 * max(curve.smoothed[0], min(curve.smoothed) * 2))
    axes.set(xlabel="learning rate", ylabel="loss")
    axes.legend()
    with atomic_path(folder / "find_lr.png") as temporary:
        figure.savefig(temporary, dpi=120)
    return {
        "suggestion": curve.suggestion,
        "lowest": curve.lowest,
        "fell": curve.fell,
        "steps": len(curve.rates),
        "plot": str(folder / "find_lr.png"),
        "curve": str(folder / "find_lr.json"),
    }
