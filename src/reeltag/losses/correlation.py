"""Exponential pairwise loss (BP-MLL, "label correlation"), alone and with the focal loss."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of, log_sum_exp_where
from reeltag.losses.focal import focal

Outputs = Literal["tanh", "sigmoid", "logits"]


@LOSSES.register("bp_mll")
def bp_mll(logits: Tensor, targets: Tensor, *, outputs: Outputs = "tanh", ignore: Tensor | None = None) -> Tensor:
    """Mean over clips of the mean over present p and absent n of exp(c_n - c_p), c the output of the network.

    Paper: Zhang, Zhou. Multilabel Neural Networks with Applications to Functional Genomics and Text Categorization.
    IEEE TKDE 2006, equation 4, whose outputs are tanh; called label correlation loss in C2AE (Yeh et al., AAAI 2017,
    arXiv:1707.00418). Departure: the paper sums over clips.

    Public versions: bp-mll-tensorflow gives NaN for the whole batch if one clip has no present or no absent label;
    moments_models does not divide by the number of pairs; C2AE's repository takes exp of the difference of means, times
    |absent| / |present| (a precedence slip), and sums over clips; Li, Song and Luo's adds 1 for every padded pair.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        outputs: what c is: `tanh` of the logit (in [-1, 1]), its `sigmoid`, or the `logits` as they are; the last
            overflows float32 when an absent label leads by 88.
        ignore: (B, L), true where the truth is unknown: the label is in no pair.

    Returns:
        A scalar >= 0. A clip with no present or no absent label adds 0, and counts.

    Raises:
        ValueError: shapes differ, or `outputs` is not allowed.
    """
    if outputs not in get_args(Outputs):
        raise ValueError(f"outputs must be one of {', '.join(get_args(Outputs))}, got {outputs!r}")
    clips = clips_of(logits, targets, ignore)
    given = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}.get(outputs, torch.Tensor.clone)(clips.logits)
    absent, present = clips.absent, clips.present
    num_pairs = (absent.sum(dim=1) * present.sum(dim=1)).clamp(min=1)
    # The mean over pairs factorises; in logarithms no factor overflows unless the product does.
    exponent = log_sum_exp_where(given, absent) + log_sum_exp_where(-given, present) - num_pairs.to(given).log()
    return clips.mean_of_clips(exponent.exp())


@LOSSES.register("correlation_focal")
def correlation_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    gamma: float = 2.0,
    outputs: Outputs = "sigmoid",
    ignore: Tensor | None = None,
) -> Tensor:
    """`bp_mll` plus `alpha` times `focal`, whose own balance is left out.

    Paper: the Alibaba entry to Multi-Moments in Time 2019, equations 1 to 4. Its equation 2 prints
    exp(present - absent), which would reward wrong orders and contradicts the source that it cites (C2AE); here it is
    exp(absent - present). It sums over clips; here both terms are means over clips, and the focal term over labels.
    Neither alpha, gamma nor whether p is a probability is stated: the defaults are assumptions.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        alpha: factor of the focal term, >= 0.
        gamma: focus of the focal term, >= 0.
        outputs: as in `bp_mll`.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or an option is out of its range.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    ranked = bp_mll(logits, targets, outputs=outputs, ignore=ignore)
    return ranked + alpha * focal(logits, targets, gamma=gamma, ignore=ignore)
