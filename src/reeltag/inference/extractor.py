"""Extractors: a frozen network and its view of a video, made from a name or a folder, and found again by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.feature_coding import Coding
from reeltag.data.feature_source import FeatureSource
from reeltag.data.footage import read_frames
from reeltag.data.sound_views import test_samples
from reeltag.errors import RecipeError, ReeltagError, StoreError, UnknownName
from reeltag.hardware import resolve_device, resolve_precision
from reeltag.inference.extract_views import Amount, ClipsView, ExtractView, FramesView, in_time_order
from reeltag.inference.load import Loaded, load_trained
from reeltag.inference.sound_extractor import SoundExtractor, SoundWindows
from reeltag.media import Video
from reeltag.models import BACKBONES
from reeltag.models.image2d import ImageBackbone, build_backbone, list_backbones
from reeltag.models.interface import VideoModel

Level = Literal["frames", "clips"]
Encode = Callable[[Tensor], Tensor]  # uint8 (n, T, C, H, W) -> (n, T or 1, D)
DEFAULT_FPS = 1.0
FRAMES_AT_ONCE = 64
MINI_PX = 64  # what our own small backbones were made for


@dataclass(frozen=True)
class Extractor:
    """A network that turns a video into feature vectors with their times.

    Attributes:
        encode: from clips uint8 (n, T, C, H, W) to (n, T, D), or (n, 1, D) where a clip gives one vector.
        view: which frames it sees.
        source: name, settings and digests, as a store keeps them.
        device: where `encode` runs.
        autocast: makes the context in which it runs.
    """

    modality: ClassVar[str] = "rgb"
    encode: Encode
    view: ExtractView
    source: FeatureSource
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]

    def features(self, frames: Tensor, times_s: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
        """Return float32 (N, D) on the CPU and the (N,) times, of the frames that `view` chose and shrank.

        Crops of a clip are averaged. A video is worked on alone, in parts of a fixed size, so that its features do not
        depend on its neighbours.
        """
        views = self.view.render(frames)  # (clips, crops, T, C, H, W)
        clips, crops, length = views.shape[:3]
        step = max(1, FRAMES_AT_ONCE // length)
        parts = views.flatten(0, 1)
        with torch.inference_mode(), self.autocast():
            found = torch.cat(
                [self._encode(part.to(self.device)) for part in parts.split(step)]
            )  # (clips * crops, N, D)
        averaged = found.unflatten(0, (clips, crops)).mean(1)  # (clips, N, D)
        return in_time_order(averaged, times_s.reshape(clips, length))

    def _encode(self, clips: Tensor) -> Tensor:
        return self.encode(clips).float().cpu()

    def of_video(self, video: Video) -> tuple[Tensor, NDArray[np.float64]]:
        """Return float32 (N, D) and the (N,) times of an open video.

        Raises:
            MediaError: its frames cannot be decoded.
        """
        indices = self.view.choose(video.num_frames, video.fps)
        return self.features(read_frames(video, indices, self.view.shrink), video.times_s[indices])


def build_extractor(
    model: str,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    level: Level | None = None,
    pretrained: bool = True,
    crop_px: int | None = None,
    checkpoint: str = "last",
    device: str = "auto",
) -> Extractor | SoundExtractor:
    """Make an extractor of a backbone by name, or of a run folder or bundle.

    Args:
        model: an image backbone (`reeltag list backbones`), or the folder of a trained model on pixels or on sound.
        fps: vectors a second; a backbone's default is 1.
        num_frames: vectors a video; a trained model's default is what its recipe tests.
        level: `frames`: a vector a frame, from backbones, TSN and TSM, or a vector a patch of 0.96 s, from VGGish;
            `clips`: a vector a clip (of sound: a window of `data.audio.seconds`), from every trained model. The default
            is `frames` where the model has them.
        pretrained: a backbone's published weights, else weights drawn from seed 0.
        crop_px: the square that a backbone sees; its own size by default.
        checkpoint: `last` or `best`, for a run folder.
        device: a torch device, or `auto`.

    Raises:
        UnknownName: no such backbone.
        RecipeError: settings that contradict each other or do not fit the model.
        StoreError: the folder holds no model that can be read.
        ReeltagError: published weights that are not at hand and cannot be fetched.
    """
    try:
        if _names_folder(model):
            if crop_px is not None:
                raise RecipeError("--crop-px is for backbones; a trained model sees what its recipe tests")
            return _of_trained(model, fps, num_frames, level, checkpoint, device)
        if level == "clips":
            raise RecipeError(f"{model} is an image backbone and sees single frames; level is 'frames'")
        amount = Amount(DEFAULT_FPS if fps is None and num_frames is None else fps, num_frames)
        return _of_backbone(model, amount, pretrained, crop_px, device)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _names_folder(model: str) -> bool:
    """Return whether a name means a folder: it exists, and is not merely called like a backbone."""
    path = Path(model)
    if any((path / name).is_file() for name in ("recipe.yaml", "config.json")):
        return True
    return path.is_dir() and model not in BACKBONES and model not in list_backbones(model)


def _of_trained(
    path: str, fps: float | None, num_frames: int | None, level: Level | None, checkpoint: str, device: str
) -> Extractor | SoundExtractor:
    loaded = load_trained(path, device=device, checkpoint=checkpoint)
    recipe, model = loaded.trained.recipe, loaded.model
    if model.input_kind not in ("rgb", "waveform") or recipe.data.modalities == ["flow"]:
        takes = "flow" if recipe.data.modalities == ["flow"] else model.input_kind
        raise RecipeError(f"{path} takes {takes}; features are made by a model on pixels or on sound")
    by_frame = getattr(model, "frame_features", None)
    if level == "frames" and by_frame is None:
        raise RecipeError(f"{recipe.model.name} has no vector a frame; use level 'clips'")
    level = level or ("clips" if by_frame is None else "frames")
    if model.input_kind == "waveform":
        return _of_sound(loaded, fps, num_frames, level, checkpoint)
    per_clip = recipe.data.num_frames if level == "frames" else 1
    if fps is None and num_frames is None:
        num_frames = recipe.test.clips * per_clip
    amount = Amount(fps, num_frames)
    facts = {"kind": "trained", "model": recipe.model.name, "path": str(Path(path).resolve()), "checkpoint": checkpoint,
             "level": level, "fps": fps, "num_frames": num_frames}  # fmt: skip
    settings = {"recipe": recipe.hash, "level": level, "fps": fps, "num_frames": num_frames}
    encode: Encode = by_frame if level == "frames" and by_frame is not None else _clip_vectors(model)
    view = ClipsView(recipe.data, recipe.test, amount, per_clip)
    with torch.inference_mode(), loaded.autocast():  # one empty clip: some nets pool frames to more than `num_features`
        side = recipe.test.crop_px or recipe.data.crop_px
        clip = torch.zeros(1, recipe.data.num_frames, 3, side, side, dtype=torch.uint8, device=loaded.device)
        width = encode(clip).shape[-1]
    source = FeatureSource(facts, loaded.trained.weights_hash, _digest(settings), (width,))
    return Extractor(encode, view, source, loaded.device, loaded.autocast)


def _of_sound(
    loaded: Loaded, fps: float | None, num_frames: int | None, level: Level, checkpoint: str
) -> SoundExtractor:
    recipe, model, path = loaded.trained.recipe, loaded.model, loaded.trained.path
    encode: Encode = getattr(model, "frame_features", _clip_vectors(model))
    amount: Amount | None = None
    part_s = float(getattr(model, "part_s", 0.0))
    if level == "frames":
        if fps is not None or num_frames is not None:
            raise RecipeError(f"{recipe.model.name} gives a vector each {part_s} s; leave --fps and --num-frames out")
    else:
        if fps is None and num_frames is None:
            num_frames = recipe.test.clips
        encode, amount, part_s = _clip_vectors(model), Amount(fps, num_frames), 0.0
    facts = {"kind": "trained", "model": recipe.model.name, "path": str(path.resolve()), "checkpoint": checkpoint,
             "level": level, "fps": fps, "num_frames": num_frames}  # fmt: skip
    settings = {"recipe": recipe.hash, "level": level, "fps": fps, "num_frames": num_frames, "modality": "audio"}
    view = SoundWindows(recipe.data.audio, amount)
    with torch.inference_mode(), loaded.autocast():
        silence = torch.zeros(1, test_samples(recipe.data.audio), device=loaded.device)
        width = encode(silence).shape[-1]
    source = FeatureSource(facts, loaded.trained.weights_hash, _digest(settings), (width,))
    return SoundExtractor(encode, view, source, loaded.device, loaded.autocast, part_s)


def _clip_vectors(model: VideoModel) -> Encode:
    def encode(clips: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(clips), pre_logits=True).unsqueeze(1)  # (n, 1, D)

    return encode


def _of_backbone(name: str, amount: Amount, pretrained: bool, crop_px: int | None, device: str) -> Extractor:
    backbone = _build(name, pretrained)
    published: Mapping[str, Any] = getattr(backbone.net, "pretrained_cfg", None) or {}
    crop = crop_px or int(published.get("input_size", (3, MINI_PX, MINI_PX))[-1])
    short_side = round(crop / float(published.get("crop_pct") or 1))
    target = resolve_device(device)
    backbone.to(target).to(memory_format=torch.channels_last).eval()
    facts = {"kind": "backbone", "model": name, "pretrained": pretrained, "crop_px": crop_px, "level": "frames",
             "fps": amount.fps, "num_frames": amount.num_frames}  # fmt: skip
    settings = {"backbone": name, "crop_px": crop, "short_side_px": short_side, "fps": amount.fps,
                "num_frames": amount.num_frames}  # fmt: skip
    weights = weights_digest(backbone.state_dict())
    source = FeatureSource(facts, weights, _digest(settings), (backbone.num_features,))
    bf16 = resolve_precision("auto", device) == "bf16"

    def encode(clips: Tensor) -> Tensor:
        parts = clips.flatten(0, 1).split(FRAMES_AT_ONCE)
        pooled = torch.cat([backbone.pool(backbone.forward_features(part)) for part in parts])
        return pooled.unflatten(0, clips.shape[:2])  # (n, T, D)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(target.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    return Extractor(encode, FramesView(amount, short_side, crop), source, target, autocast)


def _build(name: str, pretrained: bool) -> ImageBackbone:
    torch.manual_seed(0)
    if not pretrained:
        return build_backbone(name)
    if name in BACKBONES:
        raise RecipeError(f"{name} has no published weights; give a run folder, or --drawn for weights drawn at random")
    try:
        return build_backbone(name, pretrained=True)
    except UnknownName:
        raise
    except Exception as error:  # timm and its hub raise what they like: no network, no such weights, a full disk
        raise ReeltagError(
            f"the published weights of {name} are not on this machine and cannot be fetched "
            f"({str(error).splitlines()[0][:120]}); connect it, or give a run folder"
        ) from error


def find_extractor(
    source: FeatureSource, given: str | None = None, *, device: str = "auto"
) -> Extractor | SoundExtractor:
    """Make the extractor that made some features again, and check that it is the same.

    Args:
        source: what the features say of their origin.
        given: where it lies now, when it has moved.
        device: a torch device, or `auto`.

    Raises:
        StoreError: it is not at hand, or has other weights or settings; the message names both hashes.
    """
    facts = source.extractor
    if facts.get("kind") not in ("trained", "backbone"):
        raise StoreError(
            f"nothing on record can make these features of a video ({source.describe()}); tag features alone"
        )
    where = given or str(facts.get("path") or facts["model"])
    again = "give the model that made the features with --extractor"
    if facts["kind"] == "trained" and not Path(where).is_dir():
        raise StoreError(
            f"the features were made by {facts['model']} with weights {source.weights_hash[:12]}, last seen at "
            f"{where}, which does not exist; {again}"
        )
    names = ["last", "best"] if facts["kind"] == "trained" else ["last"]
    names.sort(key=lambda name: name != facts.get("checkpoint"))
    for checkpoint in names:  # training may have gone on since
        found = build_extractor(
            where,
            fps=facts["fps"],
            num_frames=facts["num_frames"],
            level=facts["level"],
            pretrained=bool(facts.get("pretrained")),
            crop_px=facts.get("crop_px"),
            checkpoint=checkpoint,
            device=device,
        )
        if found.source.weights_hash == source.weights_hash:
            break
    for word, ours, theirs in (
        ("weights", source.weights_hash, found.source.weights_hash),
        ("settings", source.recipe_hash, found.source.recipe_hash),
    ):
        if ours != theirs:
            raise StoreError(f"the features were made with {word} {ours[:12]}, {where} has {theirs[:12]}; {again}")
    return found


def coded(coding: Coding, features: Tensor, video: str) -> Tensor:
    """Return what is stored of float (N, D) features; ReeltagError, with the name of the video, when it cannot be.

    They are rounded to float16 before a PCA too, as raw features are that wait for its fit: a video gets one code,
    whichever way it comes.
    """
    try:
        return coding.encode(features.half().float())
    except ValueError as error:
        raise ReeltagError(f"{video}: {error}; the weights are broken, or made for pixels of another range") from None


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values of a state dict, whatever its order or memory format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
