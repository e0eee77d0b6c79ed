"""Any image network on a log-mel spectrogram or on MFCC: `logmel_<backbone>`, `mfcc_<backbone>`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from reeltag.layers.spec_augment import SpecAugment
from reeltag.layers.spectrogram import LogMel, Mfcc, preset
from reeltag.models import MODELS
from reeltag.models.frame_network import outer_blocks
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.sound import SoundModel, waveform_check


class SpectrogramNet(SoundModel):
    """A spectrogram, batch norm over its bands, SpecAugment, an image network on the picture, a linear layer.

    Systems: Alibaba 2019 (ResNet-34 and VGG16 on log-mel), Qiniu 2018 (SE-ResNet-50 and ResNet-50 on MFCC). The batch
    norm over bands is that of PANNs (arXiv:1912.10211); the two documents do not say how they normalise.

    Args:
        front: waveform (B, N) to (B, F, T).
        bands: F.
        backbone: an image network of one channel.
        num_labels: L.
        rate_hz: of the waveform.
        num_samples: N of `example_input`; any length that fills the network's strides is taken.
        dropout: probability on the pooled features.
        augment: SpecAugment in training, or None.
        head_std: see `VideoModel`.
    """

    def __init__(
        self,
        front: nn.Module,
        bands: int,
        backbone: ImageBackbone,
        num_labels: int,
        *,
        rate_hz: int,
        num_samples: int,
        dropout: float = 0.2,
        augment: SpecAugment | None = None,
        head_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.front = front
        self.band_norm = nn.BatchNorm1d(bands)
        self.augment = augment or nn.Identity()
        self.backbone = backbone
        self.rate_hz, self.num_samples = rate_hz, num_samples
        self.num_features = backbone.num_features
        self.dropout = nn.Dropout(dropout)
        self.head_std = head_std
        self.reset_classifier(num_labels)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the backbone's residual blocks."""
        return [block for _, block in outer_blocks(self.backbone.net)]

    def forward_features(self, waveform: Tensor) -> Tensor:
        """Return the map (B, D, h, w) of waveforms (B, N); height is frequency, width is time."""
        waveform_check(waveform, 1)
        picture = self.augment(self.band_norm(self.front(waveform)))  # (B, F, T)
        return self.backbone.forward_features(picture.unsqueeze(1))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D) features with `pre_logits`."""
        pooled = self.backbone.pool(features)
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


def _augment(max_frames: int, max_bands: int) -> SpecAugment | None:
    return SpecAugment(max_frames, max_bands) if max_frames or max_bands else None


@MODELS.register_family("logmel_", key="backbone")
def logmel(
    *,
    backbone: str,
    num_labels: int,
    spectrogram: str = "speech",
    spectrogram_options: dict[str, Any] | None = None,
    seconds: float = 2.0,
    dropout: float = 0.2,
    max_frames: int = 0,
    max_bands: int = 0,
    head_std: float = 0.01,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> SpectrogramNet:
    """Build any image network on a log-mel spectrogram.

    Args:
        backbone: of `BACKBONES`, or a timm name.
        num_labels: L.
        spectrogram: a preset's name; `spectrogram_options` changes some of its `SpectrogramSettings`, as a longer hop.
        seconds: of `example_input`.
        dropout: probability on the pooled features.
        max_frames: the widest stretch of time that SpecAugment blanks; `max_bands` the widest of frequency.
        head_std: see `VideoModel`.
        pretrained: image weights of the backbone.
        backbone_options: its own options.
    """
    settings = preset(spectrogram, **(spectrogram_options or {}))
    net = build_backbone(backbone, in_channels=1, pretrained=pretrained, **(backbone_options or {}))
    return SpectrogramNet(
        LogMel(settings),
        settings.n_mels,
        net,
        num_labels,
        rate_hz=settings.rate_hz,
        num_samples=round(seconds * settings.rate_hz),
        dropout=dropout,
        augment=_augment(max_frames, max_bands),
        head_std=head_std,
    )


@MODELS.register_family("mfcc_", key="backbone")
def mfcc(
    *,
    backbone: str,
    num_labels: int,
    spectrogram: str = "speech",
    spectrogram_options: dict[str, Any] | None = None,
    num_coefficients: int = 40,
    seconds: float = 2.0,
    dropout: float = 0.2,
    max_frames: int = 0,
    max_bands: int = 0,
    head_std: float = 0.01,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> SpectrogramNet:
    """Build any image network on mel-frequency cepstral coefficients."""
    settings = preset(spectrogram, **(spectrogram_options or {}))
    net = build_backbone(backbone, in_channels=1, pretrained=pretrained, **(backbone_options or {}))
    return SpectrogramNet(
        Mfcc(settings, num_coefficients),
        num_coefficients,
        net,
        num_labels,
        rate_hz=settings.rate_hz,
        num_samples=round(seconds * settings.rate_hz),
        dropout=dropout,
        augment=_augment(max_frames, max_bands),
        head_std=head_std,
    )
