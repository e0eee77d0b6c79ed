"""Binary cross-entropy of every label on its own, and its form for partly known truth."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of, per_label


@LOSSES.register("bce")
def bce(
    logits: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    ignore: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean over the known pairs of -w_l (v_l y log p + (1 - y) log(1 - p)), times `scale`, with p = sigmoid(logit).

    The mean runs over clips and labels; `torch.nn.MultiLabelSoftMarginLoss` is the same number. With `scale` = L it is
    the sum over labels and the mean over clips; entries to Multi-Moments in Time used 160 (arXiv:2003.05837). Under
    plain SGD the scale is a factor of the learning rate, under weight decay or gradient clipping it is not.

    Public versions: the YouTube-8M code takes probabilities and adds 1e-5 inside both logarithms, so its gradient dies
    where the model is confidently wrong; here the logarithms are those of the logits and stay exact.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1]; soft targets are allowed.
        scale: factor on the mean, > 0.
        weight: (L,) factor w of each label, on its present and absent clips alike, for example of `label_weights`; the
            mean is not divided by it.
        pos_weight: (L,) factor v of each label on its present clips alone.
        ignore: (B, L), true where the truth is unknown; such a pair adds nothing to the sum or the count.
        smoothing: s in [0, 1); targets become y (1 - s) + s / 2.

    Returns:
        A scalar >= 0 in float32 or the wider dtype of the logits; exactly 0, with zero
        gradient, when every pair is ignored.

    Raises:
        ValueError: shapes differ, or `scale` or `smoothing` is out of its range.
    """
    if scale <= 0 or not 0 <= smoothing < 1:
        raise ValueError(f"need scale > 0 and smoothing in [0, 1), got {scale} and {smoothing}")
    clips = clips_of(logits, targets, ignore)
    truth = clips.targets * (1 - smoothing) + smoothing / 2 if smoothing else clips.targets
    losses = F.binary_cross_entropy_with_logits(
        clips.logits,
        truth,
        weight=per_label("weight", weight, clips.logits),
        pos_weight=per_label("pos_weight", pos_weight, clips.logits),
        reduction="none",
    )
    return scale * clips.mean_of_pairs(losses)


@LOSSES.register("partial_bce")
def partial_bce(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    gamma: float = -1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Mean over clips of g(k) / L x the sum of binary cross-entropy over the clip's known labels, k their share of L.

    Paper: Durand, Mehrasa, Mori. Learning a Deep ConvNet for Multi-label Classification with Partial Labels. CVPR
    2019, arXiv:1902.09720, g(k) = alpha k^gamma + beta. The defaults give g = 1 / k: every clip counts the same,
    however few of its labels are known; `bce` with `ignore` lets every known pair count the same instead. Without
    `ignore` and with g(1) = 1 both are one number.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1].
        alpha: factor of g.
        beta: offset of g.
        gamma: power of g.
        ignore: (B, L), true where the truth is unknown. A clip without a known label is left out.

    Returns:
        A scalar, >= 0 where g is; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ.
    """
    clips = clips_of(logits, targets, ignore)
    losses = F.binary_cross_entropy_with_logits(clips.logits, clips.targets, reduction="none")
    if clips.known is None:
        return (alpha + beta) * losses.mean()
    num_labels, num_known = losses.shape[1], clips.known.sum(dim=1).clamp(min=1).to(losses)
    factor = alpha * (num_known / num_labels) ** gamma + beta  # (B,)
    return clips.mean_of_clips(factor * (losses * clips.known).sum(dim=1) / num_labels)
