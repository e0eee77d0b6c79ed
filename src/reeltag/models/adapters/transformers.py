"""Video transformers of Hugging Face behind our interface (home of transformers, an extra): `hf_<architecture>`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from reeltag.errors import RecipeError
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, PixelNorm
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel, clip_check

ARCHITECTURES = ("videomae", "timesformer", "vivit")
_HALF = (0.5,) * 3


class HuggingFaceVideo(VideoModel):
    """A video classifier of `transformers` without its classifier, and ours behind it.

    Papers: Tong et al. VideoMAE. arXiv:2203.12602; Bertasius et al. TimeSformer. arXiv:2102.05095; Arnab et al. ViViT.
    arXiv:2103.15691. Position codes fix the number of frames and the size.

    Args:
        net: the library's classification model, its `classifier` replaced by the identity.
        norm: uint8 to network input.
        num_labels: L.
        dropout: probability on the pooled features.
    """

    def __init__(self, net: Any, norm: PixelNorm, num_labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.norm = norm
        size = net.config.image_size
        self.clip_shape = (int(net.config.num_frames), 3, int(size), int(size))
        self.num_features = int(net.config.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_labels)

    def blocks(self) -> Iterable[nn.Module]:
        """Return nothing: the library recomputes its own layers, see `set_gradient_checkpointing`."""
        return []

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Turn the library's own gradient checkpointing on or off."""
        if enabled:
            self.net.gradient_checkpointing_enable()
        else:
            self.net.gradient_checkpointing_disable()

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return tokens (B, N, D) of a clip (B, T, C, H, W) of the size in `clip_shape`."""
        clip_check(clip)
        x = self.norm(clip)
        if tuple(clip.shape[1:]) != self.clip_shape:
            wanted, got = ("x".join(map(str, shape)) for shape in (self.clip_shape, clip.shape[1:]))
            raise ValueError(f"this network takes clips of {wanted}, got {got}; set data.num_frames and data.crop_px")
        tokens: Tensor = self.net.base_model(x).last_hidden_state
        return tokens

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D): the normed mean token, or the first, as the library does."""
        norm = getattr(self.net, "fc_norm", None)
        pooled = norm(features.mean(1)) if norm is not None else features[:, 0]
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


@MODELS.register_family("hf_", key="architecture")
def huggingface(
    *,
    architecture: str,
    num_labels: int,
    dropout: float = 0.0,
    weights: str | None = None,
    config: dict[str, Any] | None = None,
) -> HuggingFaceVideo:
    """Build a video classifier of transformers: hf_videomae, hf_timesformer, hf_vivit.

    Args:
        architecture: of `ARCHITECTURES`.
        num_labels: L.
        dropout: probability on the pooled features.
        weights: a folder that `save_pretrained` wrote, or a name on the hub; its own classifier is left out.
        config: fields of the library's configuration, for example `num_hidden_layers`.

    Raises:
        RecipeError: another architecture, or the library is not installed.
    """
    if architecture not in ARCHITECTURES:
        raise RecipeError(f"hf_{architecture} is not known; there are {', '.join('hf_' + a for a in ARCHITECTURES)}")
    try:
        from transformers import AutoConfig, AutoModelForVideoClassification
    except ImportError as error:
        raise RecipeError(
            f"hf_{architecture} needs transformers: pip install 'reeltag[transformers]' ({error})"
        ) from error
    if weights is not None:
        net = AutoModelForVideoClassification.from_pretrained(weights, **(config or {}))
    else:
        net = AutoModelForVideoClassification.from_config(AutoConfig.for_model(architecture, **(config or {})))
    net.classifier = nn.Identity()
    mean, std = (_HALF, _HALF) if architecture == "vivit" else (IMAGENET_MEAN, IMAGENET_STD)
    return HuggingFaceVideo(net, PixelNorm(mean, std), num_labels, dropout=dropout)
