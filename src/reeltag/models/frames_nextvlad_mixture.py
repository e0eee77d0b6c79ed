"""A mixture of NeXtVLAD models whose branches learn from their own mixture while they train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers.frames import FrameBatchNorm, masked_mean, widen
from reeltag.models import MODELS
from reeltag.models.feature_head import HeadOptions
from reeltag.models.frame_set import YOUTUBE8M_SIZES, FrameSet, check_features, stream_poolings
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import Loss, TrainsItself
from reeltag.schema import InputKind


class NeXtVLADMixture(VideoModel, TrainsItself):
    """Several NeXtVLAD models side by side; a softmax on the mean frame says how much of each logit counts.

    Paper: Lin, Xiao, Fan. NeXtVLAD. ECCV workshops 2018, arXiv:1811.05014, section 3.4 ("Knowledge Distillation with
    On-the-fly Naive Ensemble"), after Lan, Zhu, Gong, arXiv:1806.04606. Training minimises

        loss(mixture) + sum over branches of loss(branch)
        + distillation * mean over clips of the sum over branches of KL(softmax(mixture / T) || softmax(branch / T)).

    As in the published code the gradient of the last term reaches the mixture too, and `distillation` is T^2 in its
    best run (9 at T = 3).

    Departures: the mean frame is that of the real frames, the published code averages padding in; and the divergence is
    computed from logarithms of softmaxes, where 1e-8 was added inside the logarithms.

    Args:
        branches: each a `FrameSet` on the same streams.
        temperature: T, above 0.
        distillation: weight of the divergence, at least 0.

    Raises:
        ValueError: fewer than two branches, or `temperature` or `distillation` out of range.
    """

    input_kind: ClassVar[InputKind] = "features"

    def __init__(self, branches: Sequence[FrameSet], *, temperature: float = 3.0, distillation: float = 9.0) -> None:
        super().__init__()
        if len(branches) < 2 or temperature <= 0 or distillation < 0:
            raise ValueError(
                f"a mixture needs 2 branches or more, temperature above 0 and distillation of 0 or more; "
                f"got {len(branches)}, {temperature} and {distillation}"
            )
        first = branches[0]
        self.feature_sizes, self.num_labels = first.feature_sizes, first.num_labels
        self.branches = nn.ModuleList(branches)
        self.mean_norm = FrameBatchNorm(sum(self.feature_sizes))
        self.shares = nn.Linear(sum(self.feature_sizes), len(branches))
        nn.init.kaiming_normal_(self.shares.weight, nonlinearity="relu")
        nn.init.zeros_(self.shares.bias)
        self.temperature, self.distillation = temperature, distillation
        self.descriptor_sizes = [branch.head.fc.in_features if branch.head.fc else 0 for branch in branches]
        self.num_features = sum(branch.num_features for branch in branches)
        self._branch_logits: Tensor | None = None

    @property
    def _each(self) -> list[FrameSet]:
        return cast("list[FrameSet]", list(self.branches))

    def forward_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the shares (B, M), then every branch's pooled descriptor, of (B, T, D) with mask (B, T)."""
        check_features(features, self.feature_sizes)
        shares = widen(self.shares(self.mean_norm(masked_mean(features, mask)))).softmax(dim=1)  # (B, M)
        return torch.cat([shares, *(branch.forward_features(features, mask) for branch in self._each)], dim=1)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) mixed logits, or the branches' gated values side by side with `pre_logits`."""
        shares, *pooled = features.split([len(self.branches), *self.descriptor_sizes], dim=1)
        found = [
            branch.forward_head(own, pre_logits=pre_logits) for branch, own in zip(self._each, pooled, strict=True)
        ]
        if pre_logits:
            return torch.cat(found, dim=1)
        logits = torch.stack(found, dim=1)  # (B, M, L)
        self._branch_logits = logits if self.training else None
        return (shares.unsqueeze(-1) * logits).sum(1)

    def forward(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, L) mixed logits of features (B, T, D); `mask` is (B, T) bool, True = real frame."""
        return self.forward_head(self.forward_features(clip, mask))

    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the loss of the mixture, plus those of the branches, plus the weighted divergence between them."""
        branches, self._branch_logits = self._branch_logits, None
        if branches is None:
            raise ValueError("training_loss belongs to a forward in training mode, once; there was none since the last")
        total = loss(logits, targets, ignore=ignore)
        for branch in branches.unbind(1):
            total = total + loss(branch, targets, ignore=ignore)
        return total + self.distillation * self.divergence(logits, branches)

    def divergence(self, logits: Tensor, branches: Tensor) -> Tensor:
        """Return the mean over clips of the summed KL divergences of branches (B, M, L) from the mixture (B, L)."""
        teacher = F.log_softmax(widen(logits) / self.temperature, dim=-1).unsqueeze(1)  # (B, 1, L)
        students = F.log_softmax(widen(branches) / self.temperature, dim=-1)
        return (teacher.exp() * (teacher - students)).sum(dim=(1, 2)).mean()

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier of every branch."""
        for branch in self._each:
            branch.reset_classifier(num_labels)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the bias of every branch's classifier."""
        for branch in self._each:
            branch.set_bias(logits)


@MODELS.register("frames_nextvlad_mixture")
def frames_nextvlad_mixture(
    *,
    num_labels: int,
    feature_sizes: Sequence[int] = YOUTUBE8M_SIZES,
    num_branches: int = 3,
    num_clusters: int | Sequence[int] = 128,
    groups: int | Sequence[int] = 8,
    expansion: int = 2,
    pool_dropout: float = 0.5,
    fc: int = 2048,
    gating_reduction: int = 16,
    dropout: float = 0.0,
    experts: int = 0,
    temperature: float = 3.0,
    distillation: float = 9.0,
) -> VideoModel:
    """Build the mixture of NeXtVLAD models (arXiv:1811.05014); its first options are those of `frames_nextvlad`."""
    options = {"num_clusters": num_clusters, "groups": groups, "expansion": expansion}
    head = HeadOptions(
        pool_dropout=pool_dropout, fc=fc, fc_norm=True, gating="se", gating_reduction=gating_reduction,
        dropout=dropout, experts=experts,
    )  # fmt: skip
    branches = [
        FrameSet(
            feature_sizes,
            num_labels,
            stream_poolings("nextvlad", feature_sizes, options),
            input_norm=False,
            head=head,
        )
        for _ in range(num_branches)
    ]
    return NeXtVLADMixture(branches, temperature=temperature, distillation=distillation)
