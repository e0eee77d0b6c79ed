"""What each modality adds to a logit: Shapley values over the modalities that a clip has."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def modality_contributions(logits_of: Callable[[Tensor], Tensor], present: Tensor) -> Tensor:
    """Return what each modality adds to each logit.

    A modality is added to those that are already there, and the change of the logit is noted; its contribution is the
    mean of that change over all orders in which the modalities can be added (Shapley. A Value for n-Person Games. 1953;
    for the inputs of a model Lundberg, Lee. arXiv:1705.07874). So the contributions of a clip sum to its logit less the
    logit of a clip without any modality, an absent modality adds exactly 0, and two modalities that say the same share
    what they say.

    Args:
        logits_of: from a mask (B, M) of the modalities that may be used to logits (B, L). It is called 2^M times.
        present: (B, M) bool.

    Returns:
        (B, M, L) float32.
    """
    count = present.shape[1]
    values = []
    for subset in range(1 << count):
        chosen = torch.tensor([bool(subset >> m & 1) for m in range(count)], device=present.device)
        values.append(logits_of(present & chosen).float())  # (B, L)
    added = []
    for m in range(count):
        total = torch.zeros_like(values[0])
        for subset in (s for s in range(1 << count) if not s >> m & 1):
            size = subset.bit_count()
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            total = total + share * (values[subset | 1 << m] - values[subset])
        added.append(total)
    return torch.stack(added, 1)
