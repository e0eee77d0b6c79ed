"""ConvNet + LSTM: an image network on every frame, a recurrent layer over them."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.frame_network import outer_blocks
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel, clip_check

Steps = Literal["mean", "last"]


class ConvNetLstm(VideoModel):
    """The pooled features of each frame through batch norm and an LSTM; the classifier reads its output.

    Papers: Donahue et al. Long-term Recurrent Convolutional Networks. CVPR 2015, arXiv:1411.4389; as in Carreira,
    Zisserman. arXiv:1705.07750, section 2.1: 512 cells, trained on the outputs of all steps, tested on the last.
    Departures: batch norm stands before the LSTM, not inside its recurrence; in training it is the logits of all steps
    that are averaged, not their losses, so that every loss of several labels can be used.

    Args:
        backbone: the frame network.
        num_labels: L.
        hidden: cells of the LSTM.
        dropout: probability on its outputs.
        train_steps: what is classified in training, the `mean` over steps or the `last`; in evaluation it is the last.
    """

    clip_shape = (25, 3, 224, 224)

    def __init__(
        self,
        backbone: ImageBackbone,
        num_labels: int,
        *,
        hidden: int = 512,
        dropout: float = 0.5,
        train_steps: Steps = "mean",
    ) -> None:
        super().__init__()
        if train_steps not in ("mean", "last"):
            raise ValueError(f"train_steps is 'mean' or 'last', got {train_steps!r}")
        self.backbone = backbone
        self.clip_shape = (25, backbone.in_channels, 224, 224)
        self.norm = nn.BatchNorm1d(backbone.num_features)
        self.lstm = nn.LSTM(backbone.num_features, hidden, batch_first=True)
        self.num_features = hidden
        self.dropout = nn.Dropout(dropout)
        self.train_steps: Steps = train_steps
        self.reset_classifier(num_labels)

    def blocks(self) -> list[nn.Module]:
        """Return the backbone's residual blocks."""
        return [block for _, block in outer_blocks(self.backbone.net)]

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the LSTM's outputs (B, T, hidden) of a clip (B, T, C, H, W)."""
        clip_check(clip)
        pooled = self.backbone.pool(self.backbone.forward_features(clip.flatten(0, 1)))
        steps: Tensor = self.lstm(self.norm(pooled).unflatten(0, clip.shape[:2]))[0]
        return steps

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or what is classified (B, hidden) with `pre_logits`."""
        every = self.training and self.train_steps == "mean"
        state = features.mean(1) if every else features[:, -1]
        return state if pre_logits else self.classifier(self.dropout(state))


@MODELS.register("convnet_lstm")
def convnet_lstm(
    *,
    num_labels: int,
    backbone: str = "inception_v1",
    hidden: int = 512,
    dropout: float = 0.5,
    train_steps: Steps = "mean",
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> ConvNetLstm:
    """Build ConvNet + LSTM (arXiv:1705.07750, table 1, a) on any 2D backbone."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return ConvNetLstm(net, num_labels, hidden=hidden, dropout=dropout, train_steps=train_steps)
