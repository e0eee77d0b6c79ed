"""The LSTM of "Beyond short snippets": a prediction after every frame, later ones counting more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from reeltag.layers.frames import widen
from reeltag.layers.sequence import LSTM
from reeltag.layers.snippet_pooling import FUSES, Fuse, frame_gain, fuse_frames
from reeltag.models import MODELS
from reeltag.models.feature_model import YOUTUBE8M_SIZES, FeatureModel, check_features
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import Kept, Loss, TrainsItself

MIN_SCORE = 1e-6  # the logit of a score of 0 or 1 would be infinite


class FramesLSTMSteps(FeatureModel, TrainsItself):
    """Stacked LSTMs with a classifier after every frame; the frames' scores are averaged with weights from 0 to 1.

    Paper: Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga, Toderici. Beyond Short Snippets: Deep Networks for Video
    Classification. CVPR 2015, arXiv:1503.08909, section 3.2: five layers of 512, a softmax per frame, and a loss per
    frame weighed by the same gain. Training minimises the mean over clips of sum_t gain_t * loss_t / sum_t gain_t; the
    division, which keeps the rate independent of the length, is ours.

    The output is the logit of the averaged score, log(p / (1 - p)), so that it reads like every model's.

    Args:
        feature_sizes: width of each stream; they are read as one.
        num_labels: L.
        hidden: H of each layer.
        num_layers: stacked layers.
        activation: `softmax` as in the paper (with `loss: softmax` or `cross_entropy`), or `sigmoid` for labels on
            their own (with `loss: bce`).
        fuse: how the frames' scores become the clip's, one of `FUSES`.
        dropout: on the states before the classifier.
    """

    num_frames = 120

    def __init__(
        self,
        feature_sizes: Sequence[int],
        num_labels: int,
        *,
        hidden: int,
        num_layers: int,
        activation: Literal["softmax", "sigmoid"],
        fuse: Fuse,
        dropout: float,
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid") or fuse not in FUSES:
            raise ValueError(f"activation is softmax or sigmoid, fuse one of {FUSES}; got {activation!r}, {fuse!r}")
        self.feature_sizes = tuple(feature_sizes)
        self.lstm = LSTM(sum(feature_sizes), hidden, num_layers, output="all")
        self.dropout = nn.Dropout(dropout)
        self.activation, self.fuse = activation, fuse
        self.num_features = hidden
        self.reset_classifier(num_labels)
        self._steps: Kept[tuple[Tensor, Tensor]] = Kept()

    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias to (L,) logits; under a softmax, to the logarithms of their scores."""
        super().set_bias(logits if self.activation == "sigmoid" else logits.sigmoid().log())

    def forward_features(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the top layer's state after every frame, (B, T, H), for features (B, T, D) with mask (B, T)."""
        check_features(clip, self.feature_sizes)
        states: Tensor = self.lstm(clip, mask)
        return states

    def forward_head(self, features: Tensor, *, pre_logits: bool = False, mask: Tensor | None = None) -> Tensor:
        """Return (B, L) logits of states (B, T, H), or their gain-weighted mean (B, H) with `pre_logits`."""
        if pre_logits:
            return fuse_frames(features, mask, "gain_mean")
        frames = widen(self.classifier(self.dropout(features)))  # (B, T, L)
        if self.training:
            real = features.new_ones(features.shape[:2], dtype=torch.bool) if mask is None else mask
            self._steps.put((frames, real))
        scores = frames.softmax(-1) if self.activation == "softmax" else frames.sigmoid()
        return fuse_frames(scores, mask, self.fuse).logit(eps=MIN_SCORE)

    def forward(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, L) logits of features (B, T, D); `mask` is (B, T) bool, True = real frame."""
        return self.forward_head(self.forward_features(clip, mask), mask=mask)

    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the frames' losses averaged with their gains, a mean over clips; a clip without frames counts as 0."""
        frames, real = self._steps.take()
        gain = frame_gain(real)
        gain = gain / gain.sum(1, keepdim=True).clamp(min=1e-12)  # (B, T), sums to 1 in each clip
        total = frames.sum() * 0.0
        # Losses are means over clips: one call for all frames of one weight, and the mean times their number is a sum.
        for weight in gain.unique():
            if weight > 0:
                clip, step = (gain == weight).nonzero(as_tuple=True)
                unknown = None if ignore is None else ignore[clip]
                total = total + weight * len(clip) * loss(frames[clip, step], targets[clip], ignore=unknown)
        return total / len(frames)


@MODELS.register("frames_lstm_steps")
def frames_lstm_steps(
    *,
    num_labels: int,
    feature_sizes: Sequence[int] = YOUTUBE8M_SIZES,
    hidden: int = 512,
    num_layers: int = 5,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    fuse: Fuse = "gain_mean",
    dropout: float = 0.0,
) -> VideoModel:
    """Build the per-frame LSTM of arXiv:1503.08909."""
    return FramesLSTMSteps(
        feature_sizes,
        num_labels,
        hidden=hidden,
        num_layers=num_layers,
        activation=activation,
        fuse=fuse,
        dropout=dropout,
    )
