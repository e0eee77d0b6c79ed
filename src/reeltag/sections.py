"""The section of a recipe that says how a model is trained, and the small sections inside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of keys: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MixSection(Section):
    """How a training clip is mixed with a second one; see `reeltag.data.mixing`."""

    name: Literal["between_class", "between_class_zero_mean", "mixup", "cutmix"]
    alpha: Positive = 1.0
    probability: Probability = 1.0


class EmaSection(Section):
    """An exponential moving average of the weights; see `reeltag.engine.averaging`."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = True


class SwaSection(Section):
    """Stochastic weight averaging: from `from_epoch` on the rate falls in cycles, and each cycle's end is averaged.

    `lr_high` and `lr_low` are shares of `train.lr`; equal ones give a constant rate.
    """

    from_epoch: Annotated[float, Field(ge=0)]
    cycle_epochs: Positive = 1.0
    lr_high: Positive = 0.5
    lr_low: Positive = 0.01
    norm_batches: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SwaSection:
        if self.lr_low > self.lr_high:
            raise ValueError(f"lr_low {self.lr_low} must not exceed lr_high {self.lr_high}")
        return self


class TrainSection(Section):
    """Optimiser, schedule and length of training; `lr` is for one batch of `batch_size` clips. See docs/training.md."""

    epochs: Positive = 10
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulate: Annotated[int, Field(ge=1)] = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    head_lr: Positive = 1.0
    bias_lr: Positive = 1.0
    first_conv_lr: Positive = 1.0
    schedule: Literal["constant", "step", "cosine", "restarts"] = "cosine"
    milestones: list[float] = Field(default_factory=list)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    cycle_epochs: Positive | None = None
    cycle_growth: Annotated[float, Field(ge=1)] = 1.0
    min_lr: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_overlaps: bool = False
    clip_norm: Positive | None = None
    bias_prior: bool = False
    freeze: Literal["none", "all_but_head"] = "none"
    freeze_norms: Literal["none", "partial", "all"] = "none"
    sync_norms: bool = False
    precise_norms: Annotated[int, Field(ge=0)] = 0
    ema: EmaSection | None = None
    swa: SwaSection | None = None
    gradient_checkpointing: bool = False
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    evaluate_every: Positive | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    max_skipped: Annotated[int, Field(ge=1)] = 10
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 120.0
    best_by: str = "map_macro"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> TrainSection:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step needs milestones, the epochs at which the rate is multiplied by gamma")
        if self.schedule == "restarts" and self.cycle_epochs is None:
            raise ValueError("schedule: restarts needs cycle_epochs, the length of the first cycle")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} splits a batch of {self.batch_size} clips into more parts")
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience counts validations; set evaluate_every, the epochs between two of them")
        if self.ema is not None and self.swa is not None:
            raise ValueError("ema and swa are two averages of one model's weights; keep one")
        if self.swa is not None:
            self._check_cycles(self.swa)
        return self

    def _check_cycles(self, swa: SwaSection) -> None:
        cycles = (self.epochs - swa.from_epoch) / swa.cycle_epochs
        if round(cycles) < 1 or abs(cycles - round(cycles)) > 1e-6:
            raise ValueError(
                f"swa: from epoch {swa.from_epoch} to {self.epochs} there are {cycles:.3g} cycles of "
                f"{swa.cycle_epochs} epochs; make it a whole number, at least 1"
            )
