"""What every video model offers: features, head, a new classifier, its input, its cost, and how its norms train."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reeltag.models.checkpointing import checkpoint_block
from reeltag.schema import InputKind

FrozenNorms = Literal["none", "partial", "all"]


class VideoModel(nn.Module, ABC):
    """A model from a clip to label logits.

    A model whose last layer is one linear layer on (B, D) or (B, T, D) calls `reset_classifier` in its constructor; one
    with another head overrides `reset_classifier` and `set_bias`. The head's state-dict names start with `classifier.`

    Attributes:
        input_kind: what `forward` takes (contract: rgb and flow are clips (B, T, C, H, W)).
        clip_shape: (T, C, H, W) of the published system: what `reeltag list models --long` counts at.
        num_labels: L.
        num_features: D, the width of the vector before the classifier.
        head_std: deviation of the normal draw of the classifier's weights.
        head_bias: whether the classifier has a bias.
        frozen_norms: see `freeze_norms`.
    """

    input_kind: ClassVar[InputKind] = "rgb"
    clip_shape: tuple[int, int, int, int] = (8, 3, 224, 224)
    num_labels: int
    num_features: int
    head_std: float = 0.01
    head_bias: bool = True
    frozen_norms: FrozenNorms = "none"
    classifier: nn.Module

    @abstractmethod
    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the feature map before pooling."""

    @abstractmethod
    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D) features with `pre_logits`."""

    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """Return the residual (or inception) blocks in forward order: the units of gradient checkpointing."""

    def forward(self, clip: Tensor) -> Tensor:
        """Return (B, L) logits of a clip; uint8 is normalised inside, a float clip is taken as normalised."""
        return self.forward_head(self.forward_features(clip))

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier; weights are normal with deviation `head_std`, the bias is 0."""
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        classifier = nn.Linear(self.num_features, num_labels, bias=self.head_bias)
        nn.init.normal_(classifier.weight, std=self.head_std)
        if self.head_bias:
            nn.init.zeros_(classifier.bias)
        self.classifier = classifier

    def drop_classifier(self) -> None:
        """Take the last layer away: `forward_head(..., pre_logits=True)` is what remains of use."""
        self.classifier = nn.Identity()

    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias to (L,) logits, usually the log odds of the label frequencies.

        Raises:
            ValueError: this model's classifier has no bias.
        """
        bias = getattr(self.classifier, "bias", None)
        if bias is None:
            raise ValueError(f"the classifier of {type(self).__name__} has no bias; leave out train.bias_prior")
        with torch.no_grad():
            bias.copy_(logits)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations: less memory, more time.

        Losses, gradients and the running statistics of batch norm stay what they are without it.
        """
        blocks = list(self.blocks())
        if enabled and not blocks:
            raise ValueError(f"{type(self).__name__} has no blocks to recompute; leave gradient checkpointing off")
        for block in blocks:
            checkpoint_block(block, enabled)

    def freeze_norms(self, how: FrozenNorms = "partial") -> None:
        """Keep batch norms in evaluation mode during training, without gradients for their scales and shifts.

        `partial` spares the first one, as TSN does (arXiv:1608.00859, section 3.2, "partial BN"); `all` freezes each.
        """
        if how not in ("none", "partial", "all"):
            raise ValueError(f"frozen norms are 'none', 'partial' or 'all', got {how!r}")
        for norm in self._frozen():  # what an earlier call froze
            norm.requires_grad_(True)
        self.frozen_norms = how
        for norm in self._frozen():
            norm.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> list[nn.Module]:
        norms: list[nn.Module] = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return {"none": [], "partial": norms[1:], "all": norms}[self.frozen_norms]

    def train(self, mode: bool = True) -> VideoModel:
        """Set training mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen():
            norm.eval()
        return self

    def example_input(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return what `forward` takes, with values drawn in [0, 1) on the model's device, at the published size.

        Each is a tensor, or for models of several modalities a dictionary of tensors.
        """
        device = next(self.parameters()).device
        return (torch.rand(batch_size, *self.clip_shape, device=device),)

    def flops(self, *inputs: Any) -> int:
        """Return the floating-point operations of one forward pass: two for every multiply-accumulate (MAC).

        Counted are convolutions and matrix products, by torch, on shapes alone: nothing is computed.

        Args:
            *inputs: what `forward` takes; the values do not matter, and tensors on the meta device will do. Without
                any, those of `example_input`.
        """
        # Without gradients, since torch's counter fails on a parameter that is itself the input of a layer.
        twin = copy.deepcopy(self).to("meta").eval().requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            twin(*map(_shapes_alone, inputs or self.example_input()))
        return int(counter.get_total_flops())


def _shapes_alone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return {name: _shapes_alone(each) for name, each in value.items()} if isinstance(value, Mapping) else value


def clip_check(clip: Tensor) -> None:
    """Raise ValueError unless a clip is (B, T, C, H, W)."""
    if clip.ndim != 5:
        raise ValueError(f"a clip is (B, T, C, H, W), got shape {tuple(clip.shape)}")
