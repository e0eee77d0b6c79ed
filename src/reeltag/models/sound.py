"""What models of sound share: a waveform goes in, at one rate, long enough for the network."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from reeltag.models.interface import VideoModel
from reeltag.schema import InputKind


class SoundModel(VideoModel):
    """A model from a waveform (B, N), float in [-1, 1] at `rate_hz`, to label logits.

    Attributes:
        rate_hz: samples a second that the network was made for.
        num_samples: N of the published system, and of `example_input`.
        fixed_length: whether the network takes `num_samples` and no other length.
    """

    input_kind: ClassVar[InputKind] = "waveform"
    rate_hz: int
    num_samples: int
    fixed_length: bool = False

    def example_input(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Return waveforms (B, num_samples) drawn in [-1, 1) on the model's device."""
        device = next(self.parameters()).device
        return (2 * torch.rand(batch_size, self.num_samples, device=device) - 1,)


def waveform_check(waveform: Tensor, least: int) -> None:
    """Raise ValueError unless a waveform is (B, N) with at least `least` samples."""
    if waveform.ndim != 2:
        raise ValueError(f"a waveform is (B, N), got shape {tuple(waveform.shape)}")
    if waveform.shape[1] < least:
        raise ValueError(f"this network needs at least {least} samples, the waveform has {waveform.shape[1]}; pad it")
