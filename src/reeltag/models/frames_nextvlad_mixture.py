"""A mixture of NeXtVLAD models whose branches learn from their own mixture while they train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers.frames import FrameBatchNorm, masked_mean, widen
from reeltag.models import MODELS
from reeltag.models.feature_head import FeatureHead, HeadOptions, build_classifier, set_classifier_bias
from reeltag.models.feature_model import YOUTUBE8M_SIZES, FeatureModel, check_features
from reeltag.models.interface import VideoModel
from reeltag.models.stream_pooling import StreamPooling, stream_poolings
from reeltag.models.training_loss import Kept, Loss, TrainsItself


class NeXtVLADMixture(FeatureModel, TrainsItself):
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
        poolings: of each branch, on the same streams.
        num_labels: L.
        options: of every branch's head.
        temperature: T, above 0.
        distillation: weight of the divergence, at least 0.

    Raises:
        ValueError: fewer than two branches, or `temperature` or `distillation` out of range.
    """

    def __init__(
        self,
        poolings: Sequence[StreamPooling],
        num_labels: int,
        options: HeadOptions,
        *,
        temperature: float = 3.0,
        distillation: float = 9.0,
    ) -> None:
        super().__init__()
        if len(poolings) < 2 or temperature <= 0 or distillation < 0:
            raise ValueError(
                f"a mixture needs 2 branches or more, temperature above 0 and distillation of 0 or more; "
                f"got {len(poolings)}, {temperature} and {distillation}"
            )
        self.feature_sizes, self.options = poolings[0].feature_sizes, options
        self.poolings = nn.ModuleList(poolings)
        self.heads = nn.ModuleList(FeatureHead(pooling.out_features, options) for pooling in poolings)
        self.mean_norm = FrameBatchNorm(sum(self.feature_sizes))
        self.shares = nn.Linear(sum(self.feature_sizes), len(poolings))
        nn.init.kaiming_normal_(self.shares.weight, nonlinearity="relu")
        nn.init.zeros_(self.shares.bias)
        self.temperature, self.distillation = temperature, distillation
        self.sections = [len(poolings), *(pooling.out_features for pooling in poolings)]
        self.branch_features = options.fc or poolings[0].out_features
        self.num_features = len(poolings) * self.branch_features
        self.reset_classifier(num_labels)
        self._branch_logits: Kept[Tensor] = Kept()

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier of every branch by a freshly drawn one."""
        self.classifier = nn.ModuleList(
            build_classifier(self.branch_features, num_labels, self.options) for _ in self.heads
        )
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the bias of every branch's classifier, see `set_classifier_bias`."""
        for classifier in self.classifier.children():
            set_classifier_bias(classifier, logits)

    def forward_features(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the shares (B, M), then every branch's pooled descriptor, of (B, T, D) with mask (B, T)."""
        check_features(clip, self.feature_sizes)
        shares = widen(self.shares(self.mean_norm(masked_mean(clip, mask)))).softmax(dim=1)  # (B, M)
        return torch.cat([shares, *(pooling(clip, mask) for pooling in self.poolings)], dim=1)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) mixed logits, or the branches' gated values side by side with `pre_logits`."""
        shares, *pooled = features.split(self.sections, dim=1)
        values = [head(own) for head, own in zip(self.heads, pooled, strict=True)]
        if pre_logits:
            return torch.cat(values, dim=1)
        scored = zip(self.classifier.children(), values, strict=True)
        logits = torch.stack([widen(classifier(own)) for classifier, own in scored], dim=1)  # (B, M, L)
        self._branch_logits.put(logits if self.training else None)
        return (shares.unsqueeze(-1) * logits).sum(1)

    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the loss of the mixture, plus those of the branches, plus the weighted divergence between them."""
        branches = self._branch_logits.take()
        total = loss(logits, targets, ignore=ignore)
        for branch in branches.unbind(1):
            total = total + loss(branch, targets, ignore=ignore)
        return total + self.distillation * self.divergence(logits, branches)

    def divergence(self, logits: Tensor, branches: Tensor) -> Tensor:
        """Return the mean over clips of the summed KL divergences of branches (B, M, L) from the mixture (B, L)."""
        teacher = F.log_softmax(widen(logits) / self.temperature, dim=-1).unsqueeze(1)  # (B, 1, L)
        students = F.log_softmax(widen(branches) / self.temperature, dim=-1)
        return (teacher.exp() * (teacher - students)).sum(dim=(1, 2)).mean()


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
    poolings = [
        StreamPooling(feature_sizes, stream_poolings("nextvlad", feature_sizes, options), input_norm=False)
        for _ in range(num_branches)
    ]
    return NeXtVLADMixture(poolings, num_labels, head, temperature=temperature, distillation=distillation)
