"""Losses of one distribution over the labels: softmax over normalised targets, cross-entropy and KL divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from reeltag.losses import LOSSES
from reeltag.losses.clips import Clips, clips_of


@LOSSES.register("softmax")
def softmax(logits: Tensor, targets: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Mean over clips of -sum over labels of (y / sum of y) log softmax(logits).

    Paper: Gong, Jia, Leung, Toshev, Ioffe. Deep Convolutional Ranking for Multilabel Image Annotation. ICLR 2014,
    arXiv:1312.4894, section 3.1.

    Public versions: the YouTube-8M code takes the logarithm of a finished softmax and gives NaN on large logits;
    rml-cnn adds 1e-7 inside that logarithm, which caps a label's loss at 16.1 and flattens its gradient.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) >= 0.
        ignore: (B, L), true where the truth is unknown: the softmax runs over the other labels.

    Returns:
        A scalar >= 0. A clip without a present label adds 0, and counts.

    Raises:
        ValueError: shapes differ.
    """
    clips = clips_of(logits, targets, ignore)
    return clips.mean_of_clips(-(_shares(clips) * clips.log_softmax()).sum(dim=1))


@LOSSES.register("kl")
def kl(logits: Tensor, targets: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Mean over clips of the KL divergence of softmax(logits) from the targets, each clip's targets made to sum to 1.

    Sum over labels of q (log q - log softmax(logits)), q = y / sum of y: `softmax` less the entropy of the targets, so
    0 is reached. Between-class learning is trained so. Paper: Tokozume, Ushiku, Harada. Learning from Between-class
    Examples for Deep Sound Recognition. ICLR 2018, arXiv:1711.10282. Arguments, result and errors as in `softmax`.
    """
    clips = clips_of(logits, targets, ignore)
    shares = _shares(clips)
    return clips.mean_of_clips((torch.xlogy(shares, shares) - shares * clips.log_softmax()).sum(dim=1))


@LOSSES.register("cross_entropy")
def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, ignore: Tensor | None = None) -> Tensor:
    """Mean over clips of -sum over labels of y log softmax(logits): for clips of one label, or of given shares.

    The targets are used as they are; a clip with three labels weighs three times (`softmax` gives each clip the same
    weight). On one-hot targets it is `torch.nn.functional.cross_entropy` on class numbers.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) >= 0.
        smoothing: s in [0, 1): targets become y (1 - s) + s (sum of y) / L, over the known labels.
        ignore: (B, L), true where the truth is unknown: the softmax runs over the other labels.

    Returns:
        A scalar >= 0. A clip without a present label adds 0, and counts.

    Raises:
        ValueError: shapes differ, or `smoothing` is out of its range.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    clips = clips_of(logits, targets, ignore)
    known = torch.ones_like(clips.targets) if clips.known is None else clips.known.to(clips.targets)
    even = known * clips.targets.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
    truth = clips.targets * (1 - smoothing) + smoothing * even
    return clips.mean_of_clips(-(truth * clips.log_softmax()).sum(dim=1))


def _shares(clips: Clips) -> Tensor:
    total = clips.targets.sum(dim=1, keepdim=True)
    return clips.targets / total.masked_fill(total == 0, 1)
