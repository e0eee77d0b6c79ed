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


class AudioSection(Section):
    """How a waveform is cut and varied; see `reeltag.data.sound_views`. Lengths in seconds, levels in dB.

    A training clip has a length drawn in [min_seconds, max_seconds] (`seconds` where they are not given), a test crop
    has `seconds`. Shorter sounds are padded with zeros on both sides or played again (`tile`), both to the one length
    of the batch. `trim_db` cuts off what is quieter, sample by sample, at both ends. Then a speed s stretches by s^u,
    u even in [-1, 1], `margin_seconds` of zeros are put before and behind, the crop is taken, and `gain_db` g amplifies
    by a gain even in [-g, g]. A track is silent, and counts as absent, when its RMS over the clip is below `silence_db`
    of full scale.
    """

    rate_hz: Annotated[int, Field(ge=1000, le=192_000)] = 16_000
    seconds: Annotated[float, Field(gt=0, le=3600)] = 2.0
    min_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    max_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    trim_db: Annotated[float, Field(lt=0)] | None = None
    margin_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    speed: Annotated[float, Field(ge=1, le=4)] = 1.0
    gain_db: Annotated[float, Field(ge=0, le=40)] = 0.0
    silence_db: Annotated[float, Field(lt=0)] = -60.0
    padding: Literal["zeros", "tile"] = "zeros"

    @property
    def range_seconds(self) -> tuple[float, float]:
        """The shortest and the longest training clip."""
        return self.min_seconds or self.seconds, self.max_seconds or self.seconds

    @model_validator(mode="after")
    def _consistent(self) -> AudioSection:
        shortest, longest = self.range_seconds
        if shortest > longest:
            raise ValueError(f"min_seconds {shortest} must not exceed max_seconds {longest}; `seconds` stands for both")
        if round(shortest * self.rate_hz) < 1 or round(self.seconds * self.rate_hz) < 1:
            raise ValueError(f"no sample is left in {min(shortest, self.seconds)} s at {self.rate_hz} Hz")
        return self


class FlowSection(Section):
    """Optical flow of a clip: how it is made where none is stored, and how it is handed to the network.

    Flow at frame i leads to frame i + `step` (of a grid of `fps` frames a second, where that is given). `stack` k hands
    over the flow at i, i + 1, ..., i + k - 1 as 2k channels. Vectors are in pixels of frames with the short side
    `short_side_px` (that of the recipe's frames, `data.short_side_px`, by default), or of smaller frames their own;
    `compute_px` is the short side at which they are computed, the same by default. `bound_px` clips them: this many
    pixels are 127 steps from the zero at 128. `image` is the form of arXiv:1503.08909: a third channel of zeros.
    """

    method: Literal["tvl1", "dis", "raft"] = "tvl1"
    step: Annotated[int, Field(ge=1, le=100)] = 1
    stack: Annotated[int, Field(ge=1, le=64)] = 1
    bound_px: Positive = 20.0
    form: Literal["quantised", "image"] = "quantised"
    short_side_px: Annotated[int, Field(ge=16, le=4096)] | None = None
    compute_px: Annotated[int, Field(ge=16, le=4096)] | None = None
    fps: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FlowSection:
        if self.form == "image" and self.stack > 1:
            raise ValueError(f"form: image has three channels and is not stacked; stack must be 1, not {self.stack}")
        return self

    @property
    def channels(self) -> int:
        """C of a flow clip."""
        return 3 if self.form == "image" else 2 * self.stack


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
