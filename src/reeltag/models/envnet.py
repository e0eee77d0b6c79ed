"""EnvNet and EnvNet-v2: raw waveforms turned into a learned picture, then a small image network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.sound import SoundModel, waveform_check

Size = tuple[int, int]
Shorter = Literal["refuse", "tile", "zeros"]
# Kernels and widths of the two parts: (width, kernel, stride) of a convolution, or the kernel of a max-pool.
Part = tuple[tuple[int, Size, Size] | Size, ...]
_ONE: Size = (1, 1)
V1: tuple[Part, Part] = (
    ((40, (1, 8), _ONE), (40, (1, 8), _ONE), (1, 160)),
    ((50, (8, 13), _ONE), (3, 3), (50, (1, 5), _ONE), (1, 3)),
)
V2: tuple[Part, Part] = (
    ((32, (1, 64), (1, 2)), (64, (1, 16), (1, 2)), (1, 64)),
    (
        *((32, (8, 8), _ONE), (32, (8, 8), _ONE), (5, 3)),
        *((64, (1, 4), _ONE), (64, (1, 4), _ONE), (1, 2)),
        *((128, (1, 2), _ONE), (128, (1, 2), _ONE), (1, 2)),
        *((256, (1, 2), _ONE), (256, (1, 2), _ONE), (1, 2)),
    ),
)


def _layers(part: Part, in_width: int, bn_eps: float) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    for item in part:
        if len(item) == 2:
            layers.append(nn.MaxPool2d(item))
            continue
        width, kernel, stride = item
        conv = nn.Conv2d(in_width, width, kernel, stride, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [nn.Sequential(conv, nn.BatchNorm2d(width, eps=bn_eps), nn.ReLU())]
        in_width = width
    return nn.Sequential(*layers), in_width


class EnvNet(SoundModel):
    """Convolutions along time, whose channels become the rows of a picture; convolutions on that; three dense layers.

    Papers: Tokozume, Harada. Learning environmental sounds with end-to-end convolutional neural network. ICASSP 2017
    (EnvNet); Tokozume, Ushiku, Harada. Learning from Between-class Examples for Deep Sound Recognition. ICLR 2018,
    arXiv:1711.10282, appendix (EnvNet-v2). Pools leave out what fills no window; the papers' lengths leave nothing.

    Args:
        parts: `V1` or `V2`.
        rate_hz: of the waveform.
        num_samples: N; the first dense layer is made for it, and `forward` takes no more.
        num_labels: L.
        shorter: what is done with a waveform of fewer samples: `refuse` it, play it again (`tile`) or put `zeros` on
            both sides. With crops of random length (Alibaba 2019) N is the longest.
        dropout: probability after the two hidden dense layers.
        bn_eps: 2e-5 as in the papers' framework; the published port of the weights has 1e-5.
    """

    def __init__(
        self,
        parts: tuple[Part, Part],
        rate_hz: int,
        num_samples: int,
        num_labels: int,
        *,
        dropout: float = 0.5,
        bn_eps: float = 2e-5,
        shorter: Shorter = "refuse",
    ) -> None:
        super().__init__()
        if shorter not in get_args(Shorter):
            raise ValueError(f"shorter is one of {', '.join(get_args(Shorter))}, got {shorter!r}")
        self.rate_hz, self.num_samples = rate_hz, num_samples
        self.shorter, self.fixed_length = shorter, shorter == "refuse"
        self.along_time, width = _layers(parts[0], 1, bn_eps)
        self.on_picture, _ = _layers(parts[1], 1, bn_eps)
        rows, columns = self._picture(parts, width)
        flat = rows * columns * next(item[0] for item in reversed(parts[1]) if len(item) == 3)
        self.num_features = 4096
        self.hidden = nn.Sequential(
            *(nn.Linear(flat, 4096), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.reset_classifier(num_labels)

    def _picture(self, parts: tuple[Part, Part], rows: int) -> Size:
        """Return rows and columns of the last map, by the arithmetic of valid convolutions and pools."""
        size: Size = (1, self.num_samples)
        for part in parts:
            for item in part:
                kernel, stride = (item, item) if len(item) == 2 else item[1:]
                size = ((size[0] - kernel[0]) // stride[0] + 1, (size[1] - kernel[1]) // stride[1] + 1)
                if min(size) < 1:
                    raise ValueError(
                        f"num_samples {self.num_samples} is too short for this network; give a longer clip"
                    )
            size = (rows, size[1]) if part is parts[0] else size
        return size

    def blocks(self) -> Iterable[nn.Module]:
        """Return the two convolutional parts."""
        return [self.along_time, self.on_picture]

    def _whole(self, waveform: Tensor) -> Tensor:
        """Return waveforms (B, num_samples) of shorter ones, as `shorter` says."""
        missing = self.num_samples - waveform.shape[1]
        if missing <= 0 or self.shorter == "refuse":
            return waveform
        if self.shorter == "zeros":
            return nn.functional.pad(waveform, (missing // 2, missing - missing // 2))
        return waveform.repeat(1, -(-self.num_samples // waveform.shape[1]))[:, : self.num_samples]

    def forward_features(self, waveform: Tensor) -> Tensor:
        """Return the map (B, C, h, w) of waveforms (B, num_samples)."""
        waveform_check(waveform, 1)
        waveform = self._whole(waveform)
        if waveform.shape[1] != self.num_samples:
            raise ValueError(
                f"this network takes {self.num_samples} samples, the waveform has {waveform.shape[1]}; crop or tile "
                "it, or build it with another num_samples"
            )
        x = self.along_time(waveform.unsqueeze(1).unsqueeze(1))  # (B, C, 1, n)
        return torch.as_tensor(self.on_picture(x.transpose(1, 2)))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the last hidden layer (B, 4096) with `pre_logits`."""
        hidden: Tensor = self.hidden(features.flatten(1))
        return hidden if pre_logits else self.classifier(hidden)


@MODELS.register("envnet")
def envnet(
    *,
    num_labels: int,
    rate_hz: int = 16000,
    num_samples: int = 24014,
    shorter: Shorter = "refuse",
    dropout: float = 0.5,
    bn_eps: float = 2e-5,
) -> EnvNet:
    """Build EnvNet (ICASSP 2017) on 1.5 s at 16 kHz."""
    return EnvNet(V1, rate_hz, num_samples, num_labels, dropout=dropout, bn_eps=bn_eps, shorter=shorter)


@MODELS.register("envnet_v2")
def envnet_v2(
    *,
    num_labels: int,
    rate_hz: int = 44100,
    num_samples: int = 66650,
    shorter: Shorter = "refuse",
    dropout: float = 0.5,
    bn_eps: float = 2e-5,
) -> EnvNet:
    """Build EnvNet-v2 (arXiv:1711.10282) on 1.5 s at 44.1 kHz."""
    return EnvNet(V2, rate_hz, num_samples, num_labels, dropout=dropout, bn_eps=bn_eps, shorter=shorter)
