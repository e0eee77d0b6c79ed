"""M3, M5, M11, M18 and M34-res: convolutions on raw waveforms, of any length."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.models import MODELS
from reeltag.models.sound import SoundModel, waveform_check

BN_EPS = 1e-3
# Width and number of convolutions of each stage; a max-pool of 4 stands before every stage.
STAGES = {
    "m3": ((256, 1),),
    "m5": ((128, 1), (256, 1), (512, 1)),
    "m11": ((64, 2), (128, 2), (256, 3), (512, 2)),
    "m18": ((64, 4), (128, 4), (256, 4), (512, 4)),
    "m34_res": ((48, 3), (96, 4), (192, 6), (384, 3)),
}
STEM = {"m3": 256, "m5": 128, "m11": 64, "m18": 64, "m34_res": 48}
_KERNEL, _STRIDE, _POOL = 80, 4, 4


class ConvUnit(nn.Module):
    """A convolution of 3 samples with bias, batch norm, and ReLU."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_width, width, 3, padding=1)
        self.norm = nn.BatchNorm1d(width, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, N)."""
        return F.relu(self.norm(self.conv(x)))


class ResidualUnit(nn.Module):
    """Two convolutions and a shortcut, a third batch norm after the sum; a wider output repeats input channels."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.repeats = width // in_width
        self.conv1 = nn.Conv1d(in_width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm1d(width, eps=BN_EPS)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm1d(width, eps=BN_EPS)
        self.norm3 = nn.BatchNorm1d(width, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, N)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x.repeat_interleave(self.repeats, dim=1) if self.repeats > 1 else x  # c0, c0, c1, c1, ...
        return F.relu(self.norm3(y + shortcut))


class RawAudioNet(SoundModel):
    """A strided first convolution over 10 ms, stages of small ones, the mean over time, a linear layer.

    Paper: Dai et al. Very Deep Convolutional Neural Networks for Raw Waveforms. ICASSP 2017, arXiv:1610.00087, table 1.
    Biases, the batch norm after each sum of M34-res and its repeated channels are those of the published code; the
    paper leaves them open. M3 and M5 have a pool before the mean, the others none.

    Args:
        name: of `STAGES`.
        num_labels: L.
        dropout: probability before the classifier; the paper has none.
        rate_hz: of the waveform; the paper's is 8 kHz, and its clips have 4 s.
    """

    def __init__(self, name: str, num_labels: int, *, dropout: float = 0.0, rate_hz: int = 8000) -> None:
        super().__init__()
        self.rate_hz, self.num_samples = rate_hz, 4 * rate_hz
        stages, width = STAGES[name], STEM[name]
        self.last_pool = name in ("m3", "m5")
        self.stem = nn.Conv1d(1, width, _KERNEL, _STRIDE)
        self.stem_norm = nn.BatchNorm1d(width, eps=BN_EPS)
        unit: type[nn.Module] = ResidualUnit if name == "m34_res" else ConvUnit
        self.stages = nn.ModuleList()
        for after, count in stages:
            units = [unit(width if index == 0 else after, after) for index in range(count)]
            self.stages.append(nn.Sequential(*units))
            width = after
        self.num_features = width
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has one
        self.least = _STRIDE * _POOL ** (len(stages) + self.last_pool)
        self.reset_classifier(num_labels)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the units of all stages."""
        return [unit for stage in self.stages for unit in stage]  # type: ignore[attr-defined]

    def forward_features(self, waveform: Tensor) -> Tensor:
        """Return the map (B, D, n) of waveforms (B, N)."""
        waveform_check(waveform, self.least)
        # Padded so that N / 4 samples come out, the odd one on the far side.
        total = max((-(-waveform.shape[1] // _STRIDE) - 1) * _STRIDE + _KERNEL - waveform.shape[1], 0)
        x = F.pad(waveform.unsqueeze(1), (total // 2, total - total // 2))
        x = F.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            x = stage(F.max_pool1d(x, _POOL))
        return F.max_pool1d(x, _POOL) if self.last_pool else x

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) over time with `pre_logits`."""
        pooled = features.mean(2)
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


@MODELS.register("m3")
def m3(*, num_labels: int, dropout: float = 0.0, rate_hz: int = 8000) -> RawAudioNet:
    """Build M3 (arXiv:1610.00087) on raw waveforms at 8 kHz."""
    return RawAudioNet("m3", num_labels, dropout=dropout, rate_hz=rate_hz)


@MODELS.register("m5")
def m5(*, num_labels: int, dropout: float = 0.0, rate_hz: int = 8000) -> RawAudioNet:
    """Build M5 (arXiv:1610.00087) on raw waveforms at 8 kHz."""
    return RawAudioNet("m5", num_labels, dropout=dropout, rate_hz=rate_hz)


@MODELS.register("m11")
def m11(*, num_labels: int, dropout: float = 0.0, rate_hz: int = 8000) -> RawAudioNet:
    """Build M11 (arXiv:1610.00087) on raw waveforms at 8 kHz."""
    return RawAudioNet("m11", num_labels, dropout=dropout, rate_hz=rate_hz)


@MODELS.register("m18")
def m18(*, num_labels: int, dropout: float = 0.0, rate_hz: int = 8000) -> RawAudioNet:
    """Build M18 (arXiv:1610.00087) on raw waveforms at 8 kHz."""
    return RawAudioNet("m18", num_labels, dropout=dropout, rate_hz=rate_hz)


@MODELS.register("m34_res")
def m34_res(*, num_labels: int, dropout: float = 0.0, rate_hz: int = 8000) -> RawAudioNet:
    """Build M34-res (arXiv:1610.00087) on raw waveforms at 8 kHz."""
    return RawAudioNet("m34_res", num_labels, dropout=dropout, rate_hz=rate_hz)
