"""Models whose scores can be worked out by hand: of brightness, of loudness; and small videos for them."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reeltag.hub.bundle import TrainedModel
from reeltag.inference.load import Loaded
from reeltag.inference.predict import Tagger
from reeltag.media.encode import write_video
from reeltag.models.interface import VideoModel
from reeltag.recipe import Recipe
from reeltag.store.calibration import Calibration

LABELS = ["bright", "bright_corner"]
SLOPE = 8.0


class Brightness(VideoModel):
    """Logits 8 (mean - 1/2) of all pixels, and of the upper left quarter, both in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.num_labels = 2

    def forward_features(self, clip: Tensor) -> Tensor:
        return clip.float().mean(2, keepdim=True) / 255  # (B, T, 1, H, W)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        height, width = features.shape[-2:]
        corner = features[..., : height // 2, : width // 2]
        return SLOPE * (torch.stack([features.mean((1, 2, 3, 4)), corner.mean((1, 2, 3, 4))], 1) - 0.5)

    def blocks(self) -> list[nn.Module]:
        return []


class Loudness(VideoModel):
    """Logits 8 (mean |sample| - 1/2), the same for both labels."""

    input_kind = "waveform"
    rate_hz = 8000

    def __init__(self) -> None:
        super().__init__()
        self.num_labels = 2

    def forward_features(self, clip: Tensor) -> Tensor:
        return clip.abs()

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        return SLOPE * (features.mean(1, keepdim=True).expand(-1, 2) - 0.5)

    def blocks(self) -> list[nn.Module]:
        return []


def make_tagger(model: VideoModel, data: dict, thresholds: tuple[float, float] = (0.5, 0.5)) -> Tagger:
    recipe = Recipe.model_validate({"model": {"name": "tsn_mini"}, "data": data})
    even = Calibration(label_names=LABELS, slopes=[1, 1], shifts=[0, 0], thresholds=list(thresholds))
    trained = TrainedModel(Path("made"), recipe, LABELS, {}, "0" * 64, even)
    return Tagger(Loaded(model.eval(), trained, torch.device("cpu"), nullcontext))


@pytest.fixture
def brightness() -> Tagger:
    """Sees four frames of 32 px: all of a square picture."""
    return make_tagger(Brightness(), {"num_frames": 4, "short_side_px": 32, "crop_px": 32})


@pytest.fixture
def loudness() -> Tagger:
    """Hears two seconds at 8 kHz."""
    return make_tagger(Loudness(), {"audio": {"rate_hz": 8000, "seconds": 2.0}})


@pytest.fixture(scope="session")
def write_levels():
    """`write_levels(path, levels, fps)`: one grey frame a level, 64 px, and a sound where it is given."""

    def write(path: Path, levels, fps: int = 8, *, audio=None, keyframes=None) -> Path:
        frames = np.empty((len(levels), 64, 64, 3), np.uint8)
        frames[:] = np.asarray(levels, np.uint8)[:, None, None, None]
        keyframes = range(0, len(levels), 16) if keyframes is None else keyframes
        write_video(path, frames, fps, audio=audio, rate_hz=8000, crf=4, keyframes=keyframes)
        return path

    return write


@pytest.fixture
def tagger_of():
    """`tagger_of(model, data)`: a tagger of a model by a recipe's section `data`."""
    return make_tagger
