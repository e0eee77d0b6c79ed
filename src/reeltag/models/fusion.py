"""What models of several modalities share: streams, masks for what a clip has not, modality dropout, contributions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reeltag.models.contributions import modality_contributions
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import Kept, Loss, TrainsItself
from reeltag.schema import InputKind

Tokens = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FusionOptions:
    """What every fusion is set by.

    Attributes:
        width: of a token, at least 1.
        dropout: probability on the fused vector, in [0, 1).
        modality_dropout: probability that a present modality is hidden in training, in [0, 1).
        alone: weight of the mean loss of the modalities by themselves, at least 0.
    """

    width: int = 256
    dropout: float = 0.2
    modality_dropout: float = 0.2
    alone: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {getattr(self, name)}")
        if self.width < 1 or self.alone < 0:
            raise ValueError(f"width must be at least 1 and alone at least 0, got {self.width} and {self.alone}")


class FusionModel(VideoModel, TrainsItself):
    """One stream a modality, each to one token; what stands behind reads the tokens that are there.

    A modality that a clip has not is left out, whatever stands in its place, even NaN: the clip does not enter that
    stream (nor its batch statistics in training), and its token is masked. All clips without any modality get the same
    logits.

    In training, `modality_dropout` hides present modalities at random (Neverova et al. ModDrop. arXiv:1501.00102,
    section 3.3), so that the rest learns to do without; one always remains. `alone` adds to the loss what each modality
    says by itself, so that the one that learns fastest does not keep the others from learning (Wang, Tran, Feiszli.
    What Makes Training Multi-Modal Classification Networks Hard? CVPR 2020, arXiv:1905.12681; there with fixed weights
    and a head a modality, here through the one head with all others masked).

    Args:
        streams: models without classifier by modality, in the order of `MODALITIES`.
        num_labels: L.
        options: see `FusionOptions`.
        starts: paths of runs or bundles that streams start from, for whoever builds the model.

    Attributes:
        modalities: the names of the streams; the columns of `present`.
    """

    input_kind: ClassVar[InputKind] = "fusion"

    def __init__(
        self,
        streams: Mapping[str, VideoModel],
        num_labels: int,
        options: FusionOptions,
        *,
        starts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(streams)
        self.modalities = tuple(streams)
        self.starts = dict(starts or {})
        self.clip_shape = next(iter(streams.values())).clip_shape
        self.options = options
        self.own_loss = options.alone > 0
        self.num_features = options.width
        self.project = nn.ModuleDict({name: _projection(stream, options.width) for name, stream in streams.items()})
        self.dropout = nn.Dropout(options.dropout)
        self._kept: Kept[Tokens] = Kept()
        self.reset_classifier(num_labels)

    @abstractmethod
    def fuse(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Return the fused vector (B, width) of tokens (B, M, width), of which `there` (B, M) says which count."""

    def blocks(self) -> Iterable[nn.Module]:
        """Return the blocks of all streams."""
        return [block for stream in self.streams.values() for block in stream.blocks()]

    @property
    def streams(self) -> dict[str, VideoModel]:
        """The networks by modality."""
        return {name: self.networks[name] for name in self.modalities}  # type: ignore[misc]  # of a ModuleDict

    def example_input(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return one dictionary of drawn clips, by modality."""
        return ({name: stream.example_input(batch_size)[0] for name, stream in self.streams.items()},)

    def given(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Return (B, M) bool: which modality of which clip is given, and present.

        Raises:
            ValueError: a modality that the model does not take, none at all, or shapes that do not fit.
        """
        if not clips or set(clips) - set(self.modalities):
            raise ValueError(
                f"this model takes clips by modality, one or more of {', '.join(self.modalities)}; "
                f"got {', '.join(clips) or 'none'}"
            )
        sizes = {name: clip.shape[0] for name, clip in clips.items()}  # `len` would bind a graph to one batch size
        batch = next(iter(sizes.values()))
        if any(size != batch for size in sizes.values()):
            raise ValueError(f"all modalities hold the same clips, got {sizes}")
        device = next(iter(clips.values())).device
        there = torch.tensor([name in clips for name in self.modalities], device=device).expand(batch, -1)
        if present is None:
            return there
        if present.dtype != torch.bool or present.shape != there.shape:
            raise ValueError(
                f"present is bool (B, M) = {tuple(there.shape)} in the order {', '.join(self.modalities)}; "
                f"got {present.dtype} {tuple(present.shape)}"
            )
        return there & present

    def _token(self, name: str, clip: Tensor) -> Tensor:
        stream = self.streams[name]
        features = stream.forward_head(stream.forward_features(clip), pre_logits=True)
        token: Tensor = self.project[name](features)
        return token  # (B, width)

    def _present_token(self, name: str, clip: Tensor, there: Tensor) -> Tensor:
        """Return the tokens (B, width) of a stream for the clips that are there (B,), and zeros for the others."""
        rows = _places(there)
        if rows is None:  # compute all, then mask
            places = there.view(-1, *[1] * (clip.ndim - 1))
            return self._token(name, clip.masked_fill(~places, 0)).masked_fill(~there.unsqueeze(1), 0)
        if len(rows) == len(clip):
            return self._token(name, clip)
        whole = torch.zeros(len(clip), self.num_features, device=clip.device)
        if not len(rows):
            return whole
        tokens = self._token(name, clip[rows])
        return whole.to(tokens.dtype).index_copy(0, rows, tokens)

    def _hidden(self, there: Tensor) -> Tensor:
        """Return (B, M) bool, where modality dropout hides what is there; one modality always remains."""
        chance = torch.rand(there.shape, device=there.device).masked_fill(~there, -1)
        hidden = chance.lt(self.options.modality_dropout) & there
        best = nn.functional.one_hot(chance.argmax(1), there.shape[1]).bool()  # the last to be hidden
        return hidden & ~best

    def forward_features(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tokens:  # type: ignore[override]
        """Return tokens (B, M, width) and (B, M) bool, which of them count; see `forward`."""
        there = self.given(clips, present)
        whole = present is None  # then what is given is there, and no value need be read
        tokens = []
        for column, name in enumerate(self.modalities):
            if name not in clips:
                tokens.append(torch.zeros(there.shape[0], self.num_features, device=there.device))
            elif whole:
                tokens.append(self._token(name, clips[name]))
            else:
                tokens.append(self._present_token(name, clips[name], there[:, column]))
        stacked = torch.stack([token.float() for token in tokens], 1)  # (B, M, width)
        self._kept.put((stacked, there) if self.training and self.own_loss else None)
        if self.training and self.options.modality_dropout:
            there = there & ~self._hidden(there)
        return stacked, there

    def forward_head(self, features: Tokens, *, pre_logits: bool = False) -> Tensor:  # type: ignore[override]
        """Return (B, L) logits of tokens and their mask, or the fused vector (B, width) with `pre_logits`."""
        tokens, there = features
        fused = self.fuse(tokens.masked_fill(~there.unsqueeze(2), 0), there)
        return fused if pre_logits else self.classifier(self.dropout(fused))

    def forward(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return (B, L) logits.

        Args:
            clips: by modality; `rgb` (B, T, 3, H, W), `flow` (B, T, 2k, H, W), `audio` (B, N). One that is not given
                is absent from all clips.
            present: (B, M) bool in the order of `modalities`, False where a clip has no such track or a silent one;
                None means that what is given is there.
        """
        return self.forward_head(self.forward_features(clips, present))

    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the loss, plus `alone` times the mean over modalities of their losses by themselves.

        A modality's own loss counts by the share of the clips that have it.
        """
        whole = loss(logits, targets, ignore=ignore)
        tokens, there = self._kept.take()
        own = whole * 0
        for column in range(len(self.modalities)):
            rows = _places(there[:, column])
            rows = torch.arange(len(there), device=there.device) if rows is None else rows
            if len(rows):
                only = torch.zeros_like(there[rows])
                only[:, column] = True
                unknown = None if ignore is None else ignore[rows]
                said = self.forward_head((tokens[rows], only)).float()
                own = own + loss(said, targets[rows], ignore=unknown) * (len(rows) / len(there))
        return whole + self.options.alone * own / len(self.modalities)

    def contributions(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Return (B, M, L): what each modality adds to each logit, by `modality_contributions`.

        They sum to the logit less that of a clip without any modality; an absent one adds 0. In evaluation mode.
        """
        tokens, there = self.forward_features(clips, present)
        return modality_contributions(lambda mask: self.forward_head((tokens, mask)), there)


def _places(there: Tensor) -> Tensor | None:
    """Return where (B,) is True; None where a graph is made, or a meta tensor counted: no shape may follow a value."""
    if torch.compiler.is_compiling() or there.is_meta:
        return None
    return there.nonzero().squeeze(1)


def _projection(stream: VideoModel, width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(stream.num_features), nn.Linear(stream.num_features, width))
