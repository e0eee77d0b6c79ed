"""Video classifiers of the `transformers` library behind our interface: `hf_<kind>` (home of transformers)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.errors import ReeltagError, UnknownName
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, PixelNorm
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel, clip_check
from reeltag.registry import close_name


@dataclass(frozen=True)
class Kind:
    """What one kind of video transformer needs to be told.

    Attributes:
        network: the library's class.
        published: the checkpoint that `pretrained: true` loads.
        mean: pixel statistics of that checkpoint; `std` too.
        frames: name of its setting for the frames a clip.
        size: name of its setting for height and width in pixels.
    """

    network: str
    published: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    frames: str = "num_frames"
    size: str = "image_size"


KINDS = {
    "timesformer": Kind(
        "TimesformerForVideoClassification", "facebook/timesformer-base-finetuned-k400", (0.45,) * 3, (0.225,) * 3
    ),
    "videomae": Kind("VideoMAEForVideoClassification", "MCG-NJU/videomae-base-finetuned-kinetics"),
    "vivit": Kind("VivitForVideoClassification", "google/vivit-b-16x2-kinetics400", (0.5,) * 3, (0.5,) * 3),
    "vjepa2": Kind(
        "VJEPA2ForVideoClassification",
        "facebook/vjepa2-vitl-fpc16-256-ssv2",
        frames="frames_per_clip",
        size="crop_size",
    ),
}


def about_kind(kind: str) -> Kind:
    """Return the entry of `KINDS`, or raise UnknownName."""
    if kind not in KINDS:
        raise UnknownName(
            f"No hf_ model is called {kind!r}. {close_name(kind, list(KINDS))}There are {', '.join(KINDS)}"
        )
    return KINDS[kind]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ReeltagError(
            "the hf_ models need the transformers library; install it with `pip install reeltag[transformers]`"
        ) from None
    return transformers


def in_library_names(kind: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of the installed version of the library, which reads those of earlier ones.

    Names that it does not know come back as they are; what is missing is not there.
    """
    about, library = about_kind(kind), _transformers()
    config = {**config, "num_labels": tensors["classifier.weight"].shape[0]}
    with _quiet(library):
        net, found = getattr(library, about.network).from_pretrained(
            None,
            config=library.AutoConfig.for_model(kind, **config),
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # Position codes of another size have their name in common with ours; the model that they are for is not built here.
    left = {*found["missing_keys"], *found["unexpected_keys"], *(name for name, *_ in found["mismatched_keys"])}
    read = {name: tensor for name, tensor in net.state_dict().items() if name not in left}
    return {**read, **{name: tensors[name] for name in left if name in tensors}}


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's progress bar and its report of missing keys off the terminal; we have our own."""
    logging = library.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


class TransformersVideo(VideoModel):
    """A video transformer of the library: its tokens, its own pooling, our classifier.

    Papers: Bertasius et al. TimeSformer, arXiv:2102.05095; Tong et al. VideoMAE, arXiv:2203.12602; Arnab et al. ViViT,
    arXiv:2103.15691; Assran et al. V-JEPA 2, arXiv:2506.09985. It takes one size of clip, that of its configuration,
    also where the library would stretch its position codes. The predictor of V-JEPA 2, which a classifier does not use,
    is left out. The names of its weights are those of the library's version.

    Args:
        net: the library's `...ForVideoClassification`; its classifier is replaced by ours.
        kind: its entry in `KINDS`.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
    """

    def __init__(self, net: Any, kind: Kind, num_labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.num_features = int(net.config.hidden_size)
        net.classifier = nn.Identity()
        if hasattr(net.base_model, "predictor"):
            net.base_model.predictor = nn.Identity()
        self.net = net
        self.norm = PixelNorm(kind.mean, kind.std)
        size = getattr(net.config, kind.size)
        height, width = (size, size) if isinstance(size, int) else size
        self.clip_shape = (getattr(net.config, kind.frames), 3, height, width)
        self.head_std = float(net.config.initializer_range)
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_labels)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks."""
        depth = self.net.config.num_hidden_layers  # the library calls the list of blocks `layer` here, `layers` there
        lists = [module for module in self.net.base_model.modules() if isinstance(module, nn.ModuleList)]
        return list(next(blocks for blocks in lists if len(blocks) == depth))

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return tokens (B, N, D) of a clip (B, T, C, H, W)."""
        clip_check(clip)
        found, wanted = tuple(clip.shape[1:]), self.clip_shape
        if found[1] == wanted[1] and found != wanted:
            raise ValueError(
                f"this network takes {wanted[0]} frames of {wanted[2]}x{wanted[3]}, got {found[0]} of {found[2]}x"
                f"{found[3]}; set data.num_frames and data.crop_px, or build it with other num_frames and size_px"
            )
        x = self.norm(clip)
        own: dict[str, Any] = {"skip_predictor": True} if self.net.config.model_type == "vjepa2" else {}
        tokens: Tensor = self.net.base_model(x, **own).last_hidden_state
        return tokens

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D) features with `pre_logits`."""
        pooled = self._pool(features)
        return pooled if pre_logits else self.classifier(self.dropout(pooled))

    def _pool(self, tokens: Tensor) -> Tensor:
        if hasattr(self.net, "pooler"):  # V-JEPA 2: attention
            return torch.as_tensor(self.net.pooler(tokens))
        if getattr(self.net, "fc_norm", None) is not None:  # VideoMAE
            return torch.as_tensor(self.net.fc_norm(tokens.mean(1)))
        return tokens[:, 0]


@MODELS.register_family("hf_", key="kind")
def hf_video(
    *,
    kind: str,
    num_labels: int,
    num_frames: int | None = None,
    size_px: int | None = None,
    dropout: float = 0.0,
    config: dict[str, Any] | None = None,
    checkpoint: str | None = None,
    pretrained: bool = False,
) -> TransformersVideo:
    """Build a video classifier of the transformers library: hf_timesformer, hf_videomae, hf_vivit or hf_vjepa2.

    Args:
        num_frames: T; None for the published number.
        size_px: height and width; None for the published size.
        config: settings of the library's configuration, such as `hidden_size`; its base model where not given.
        checkpoint: a folder that `save_pretrained` wrote, or a name on the hub: its configuration, and with
            `pretrained` its weights, in place of the published base model's.
        pretrained: start from published weights; the classifier is drawn anew (needs a network, a folder or the
            library's cache).

    Raises:
        UnknownName: another kind.
        ReeltagError: the library is not installed, or the checkpoint cannot be read.
    """
    about = about_kind(kind)
    settings = dict(config or {})
    if num_frames is not None:
        settings[about.frames] = num_frames
    if size_px is not None:
        settings[about.size] = size_px
    library = _transformers()
    network = getattr(library, about.network)
    try:
        if pretrained:
            net = network.from_pretrained(checkpoint or about.published, **settings)
        elif checkpoint:
            net = network(library.AutoConfig.from_pretrained(checkpoint, **settings))
        else:
            net = network(library.AutoConfig.for_model(kind, **settings))
    except OSError as error:
        raise ReeltagError(
            f"hf_{kind}: {checkpoint or about.published} cannot be read ({str(error).splitlines()[0]}); give a folder "
            "that holds config.json and weights, or a name on the hub"
        ) from error
    return TransformersVideo(net, about, num_labels, dropout)
