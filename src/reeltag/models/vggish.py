"""VGGish: a VGG network on log-mel patches of 0.96 s, and a frame classifier on its n x 128 embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.spectrogram import LogMel
from reeltag.layers.vggish_postprocess import SIZE, VggishPostprocess, features_of_levels
from reeltag.models import MODELS
from reeltag.models.frame_set import FrameSet
from reeltag.models.sound import SoundModel, waveform_check

Postprocess = Literal["none", "components", "nearest", "down"]
PATCH_FRAMES = 96
_WIDTHS = ((64,), (128,), (256, 256), (512, 512))  # a max-pool of 2 stands behind each group


class VGGishNet(nn.Module):
    """Six convolutions of 3x3, four max-pools, three dense layers: a patch (96 frames, 64 bands) to 128 values.

    Paper: Hershey et al. CNN Architectures for Large-Scale Audio Classification. ICASSP 2017, arXiv:1609.09430; the
    network that was published with AudioSet. Layers are numbered as in the published PyTorch port.

    Args:
        final_relu: of the last layer: on in the published port, off in the current TensorFlow code.
    """

    def __init__(self, final_relu: bool = True) -> None:
        super().__init__()
        self.final_relu = final_relu
        layers: list[nn.Module] = []
        before = 1
        for group in _WIDTHS:
            for width in group:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            *(nn.Linear(before * 6 * 4, 4096), nn.ReLU()), *(nn.Linear(4096, 4096), nn.ReLU()), nn.Linear(4096, SIZE)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # each has one

    def forward(self, patches: Tensor) -> Tensor:
        """Return embeddings (P, 128) of log-mel patches (P, 96, 64): frames are rows, bands are columns."""
        maps = self.features(patches.unsqueeze(1))  # (P, 512, 6, 4)
        embeddings: Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))
        return embeddings.relu() if self.final_relu else embeddings


class VGGish(SoundModel):
    """VGGish on consecutive patches of a waveform, then a classifier on the sequence of its embeddings.

    Systems: the sound model of Qiniu 2018 (section 2.2): embeddings n x 128, and a classifier on them. A clip of less
    than one patch is padded with silence at its end, where the published code gives no embedding at all; a remainder
    that fills no patch is left out, as there.

    Args:
        net: patches to embeddings.
        frames: the classifier on (B, n, 128), which is this model's `classifier` as a whole: `train.freeze:
            all_but_head` trains it on a fixed network.
        postprocess: what the classifier reads: embeddings (`none`), whitened `components` in [-2, 2], or components of
            8 bits as AudioSet and YouTube-8M have them, rounded `down` or to the `nearest`. Through 8 bits no gradient
            passes, so the network behind them keeps its weights.
    """

    rate_hz = 16000
    num_samples = 32000
    part_s = 0.96  # of a patch: 96 frames, 10 ms apart

    def __init__(self, net: VGGishNet, frames: FrameSet, postprocess: Postprocess = "none") -> None:
        super().__init__()
        if postprocess not in get_args(Postprocess):
            raise ValueError(f"postprocess is one of {', '.join(get_args(Postprocess))}, got {postprocess!r}")
        self.front = LogMel("vggish")
        settings = self.front.settings
        self.least = settings.window + (PATCH_FRAMES - 1) * settings.hop
        self.net = net
        self.postprocess = postprocess
        self.pproc = None if postprocess == "none" else VggishPostprocess()
        self.frames = frames
        self.num_labels, self.num_features = frames.num_labels, frames.num_features

    @property
    def classifier(self) -> nn.Module:  # type: ignore[override]
        """The whole classifier on embeddings: what training the head alone trains."""
        return self.frames

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the last layer of the classifier on embeddings."""
        self.frames.reset_classifier(num_labels)
        self.num_labels = num_labels

    def drop_classifier(self) -> None:
        """Take the last layer away."""
        self.frames.drop_classifier()

    def set_bias(self, logits: Tensor) -> None:
        """Set the bias of the last layer so that an embedding of zeros scores about sigmoid((L,) logits)."""
        self.frames.set_bias(logits)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the convolutions and the dense layers."""
        return [self.net.features, self.net.embeddings]

    def patches(self, waveform: Tensor) -> Tensor:
        """Return log-mel patches (B, n, 96, 64) of waveforms (B, N), n at least 1."""
        waveform_check(waveform, 1)
        x = F.pad(waveform, (0, max(0, self.least - waveform.shape[1])))
        log_mel = self.front(x).transpose(1, 2)  # (B, T, 64)
        count = log_mel.shape[1] // PATCH_FRAMES
        return log_mel[:, : count * PATCH_FRAMES].unflatten(1, (count, PATCH_FRAMES))

    def forward_features(self, waveform: Tensor) -> Tensor:
        """Return what the classifier reads, (B, n, 128), of waveforms (B, N) in [-1, 1]."""
        patches = self.patches(waveform)
        embeddings = self.net(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        if self.pproc is None:
            return embeddings
        if self.postprocess == "components":
            return self.pproc(embeddings)
        return features_of_levels(self.pproc.levels(embeddings, "nearest" if self.postprocess == "nearest" else "down"))

    def frame_features(self, waveform: Tensor) -> Tensor:
        """Return one vector a patch, (B, n, 128), of waveforms (B, N): what `reeltag extract` stores."""
        return self.forward_features(waveform)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits of features (B, n, 128), or the vector before the last layer with `pre_logits`."""
        return self.frames.forward_head(self.frames.forward_features(features), pre_logits=pre_logits)


@MODELS.register("vggish")
def vggish(
    *,
    num_labels: int,
    pooling: str = "mean",
    pooling_options: dict[str, Any] | None = None,
    postprocess: Postprocess = "none",
    final_relu: bool = True,
) -> VGGish:
    """Build VGGish (arXiv:1609.09430) with a classifier on its embeddings.

    Args:
        num_labels: L.
        pooling: the classifier on embeddings is the model `frames_<pooling>`: mean, lstm, netvlad, attention, ...
        pooling_options: of that model, for example `{num_clusters: 16}`.
        postprocess: see `VGGish`.
        final_relu: see `VGGishNet`.

    Raises:
        ValueError: `frames_<pooling>` is no pooling with one head.
    """
    name, options = f"frames_{pooling}", pooling_options or {}
    MODELS.check(name, options)
    frames = MODELS.build(name, num_labels=num_labels, feature_sizes=(SIZE,), **options)
    if not isinstance(frames, FrameSet):
        raise ValueError(f"pooling {pooling!r} trains by a rule of its own; take mean, lstm, netvlad or another")
    return VGGish(VGGishNet(final_relu), frames, postprocess)
