"""Which places of the pictures a score rests on: a sliding patch, random masks, or the gradient of the last map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from reeltag.errors import ReeltagError
from reeltag.inference.hiding import Subject
from reeltag.models.interface import VideoModel
from reeltag.models.scoring import model_inputs
from reeltag.models.thresholded import ThresholdedModel

Maps: TypeAlias = NDArray[np.float32]  # (labels, K, rows, columns)
PATCH, STRIDE = 4, 2  # cells
RISE_MASKS, RISE_CELLS, RISE_KEEP = 512, 7, 0.5
_CLIP = 1e-6


def logits_of(scores: NDArray[np.float32] | np.float32) -> NDArray[np.float64]:
    """Return the logits of scores, which do not level off near 1 as scores do; kept a millionth away from 0 and 1."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), _CLIP, 1 - _CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def occlusion(subject: Subject, labels: Sequence[int], generator: torch.Generator) -> Maps:
    """Slide a patch of the mean colour over the picture, in each part of the time by itself, and note what logits lose.

    Paper: Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014, arXiv:1311.2901, section
    4.2. Here a patch hides 4 x 4 of about 16 cells a side at steps of 2, and a cell gets the mean over its patches.

    Args:
        subject: with pictures.
        labels: columns of its scores.
        generator: not used; nothing is random.

    Returns:
        (labels, K, rows, columns), positive where hiding lowers the logit.
    """
    rows, columns = subject.grid
    keep, boxes = [], []
    for part in range(subject.num_parts):
        for top in _starts(rows):
            for left in _starts(columns):
                box = (part, slice(top, top + PATCH), slice(left, left + PATCH))
                mask = torch.ones(subject.num_parts, rows, columns, dtype=torch.uint8)
                mask[box] = 0
                keep.append(mask)
                boxes.append(box)
    whole = logits_of(subject.scores())[0, labels]
    drops = whole - logits_of(subject.scores(torch.stack(keep)))[:, labels]  # (N, labels)
    maps = np.zeros((len(labels), subject.num_parts, rows, columns))
    count = np.zeros(maps.shape[1:])
    for box, drop in zip(boxes, drops, strict=True):
        maps[:, *box] += drop[:, None, None]
        count[box] += 1
    return (maps / np.maximum(count, 1)).astype(np.float32)


def _starts(cells: int) -> list[int]:
    last = max(0, cells - PATCH)
    return sorted({*range(0, last + 1, STRIDE), last})


def rise(subject: Subject, labels: Sequence[int], generator: torch.Generator, *, num_masks: int = RISE_MASKS) -> Maps:
    """Hide random places, and average the masks by the scores that they leave.

    Paper: Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018,
    arXiv:1806.07421, equation 6. Masks of 7 cells along the short side, each cell left with probability 1/2, are
    enlarged and shifted at random. Departures: each part of the time has masks of its own; logits are averaged, and
    their mean is taken off, so that a map is 0 on average.

    Args:
        subject: with pictures.
        labels: columns of its scores.
        generator: draws the masks.
        num_masks: N; the noise falls with its root.

    Returns:
        (labels, K, rows, columns), positive where showing raises the logit.
    """
    rows, columns = subject.grid
    cell = min(rows, columns) / RISE_CELLS
    coarse = (round(rows / cell) + 1, round(columns / cell) + 1)
    drawn = torch.rand(num_masks, subject.num_parts, *coarse, generator=generator) < RISE_KEEP
    fine = (int(coarse[0] * cell) + 1, int(coarse[1] * cell) + 1)
    large = interpolate(drawn.float(), fine, mode="bilinear", align_corners=False)
    shifts = (torch.rand(num_masks, 2, generator=generator) * cell).int().tolist()
    keep = torch.stack(
        [mask[:, y : y + rows, x : x + columns] for mask, (y, x) in zip(large, shifts, strict=True)]
    )  # (N, K, rows, columns)
    logits = logits_of(subject.scores(keep))[:, labels]
    weights = torch.from_numpy(logits - logits.mean(0)).float()  # (N, labels)
    maps = torch.einsum("nl,nkyx->lkyx", weights, keep) / (num_masks * RISE_KEEP)
    return np.asarray(maps.numpy())


def grad_cam(subject: Subject, labels: Sequence[int], generator: torch.Generator) -> Maps:
    """Weight the channels of the network's last map by the mean gradient of the logit, sum, and keep what is positive.

    Paper: Selvaraju et al. Grad-CAM. ICCV 2017, arXiv:1610.02391, equations 1 and 2. The gradient is averaged over the
    places of a frame, so that each frame of a clip has channel weights of its own.

    Args:
        subject: of one model of clips with a map (B, T, D, h, w) or (B, D, t, h, w); see `has_map`.
        labels: columns of its scores.
        generator: not used; nothing is random.

    Returns:
        (labels, K, rows, columns), at least 0; 0 where no view looks.

    Raises:
        ReeltagError: a model without such a map.
    """
    if not has_map(subject):
        raise ReeltagError("this model has no map of places that one label's gradient reaches; take occlusion or rise")
    look = subject.looks[0]
    batch, places, frames_s = look.batch, look.places, look.frames_s
    assert batch is not None  # for `has_map`
    assert places is not None
    assert frames_s is not None
    model = _network(subject)
    (clips,) = model_inputs(model, batch, look.tagger.loaded.device)
    maps = []
    with look.tagger.loaded.autocast():
        with torch.no_grad():
            features = model.forward_features(clips)  # type: ignore[arg-type]
        features.requires_grad_(True)
        logits = model.forward_head(features).float()
        for label in labels:
            gradient = torch.autograd.grad(logits[:, label].sum(), features, retain_graph=True)[0]
            maps.append(_cam(features, gradient, frames_s.shape[1]))  # (V, T, h, w)
    return _on_grid(torch.stack(maps), subject, places, frames_s)


def _cam(features: Tensor, gradient: Tensor, num_frames: int) -> Tensor:
    """Return (V, T, h, w)."""
    by_frame = features.shape[1] == num_frames
    channels, space = (2, (3, 4)) if by_frame else (1, (3, 4))
    cam = (gradient.mean(space, keepdim=True) * features.detach()).sum(channels).relu().float().cpu()  # (V, t, h, w)
    if cam.shape[1] == num_frames:
        return cam
    return interpolate(cam.unsqueeze(1), (num_frames, *cam.shape[2:]), mode="nearest").squeeze(1)


def _on_grid(maps: Tensor, subject: Subject, places: Tensor, frames_s: Tensor) -> Maps:
    """Return maps (labels, V, T, h, w) of views on the grid of the whole frame, averaged over frames of a part."""
    rows, columns = subject.grid
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n * 2 - 1 for n in (rows, columns)), indexing="ij")
    sums = torch.zeros(len(maps), subject.num_parts, rows, columns)
    count = torch.zeros(subject.num_parts, rows, columns)
    for view, (place, times_s) in enumerate(zip(places, frames_s, strict=True)):
        low, high = place[0, 0], place[-1, -1]  # of the crop; pixels' middles, half a pixel inside of its edges
        grid = torch.stack([(x - low[0]) / (high[0] - low[0]), (y - low[1]) / (high[1] - low[1])], -1) * 2 - 1
        inside = (grid.abs() <= 1 + 1 / rows).all(-1)
        for frame, part in enumerate(np.searchsorted(subject.edges_s[1:-1], times_s.numpy(), side="right").tolist()):
            own = grid_sample(maps[:, view, frame, None], grid.expand(len(maps), -1, -1, -1).float(),
                              mode="bilinear", padding_mode="border", align_corners=False)[:, 0]  # fmt: skip
            sums[:, part] += own * inside
            count[part] += inside
    return np.asarray((sums / count.clamp(min=1)).numpy())


def has_map(subject: Subject) -> bool:
    """Tell whether `grad_cam` can be used: one model on frames or on flow whose features have places."""
    look = subject.looks[0]
    if len(subject.looks) > 1 or look.batch is None or look.places is None or look.frames_s is None:
        return False
    model = _network(subject)
    if model.input_kind not in ("rgb", "flow"):
        return False
    with torch.inference_mode(), look.tagger.loaded.autocast():
        features = model.forward_features(*model_inputs(model, look.batch, look.tagger.loaded.device))  # type: ignore[arg-type]
    return isinstance(features, Tensor) and features.ndim == 5


def _network(subject: Subject) -> VideoModel:
    model = subject.looks[0].tagger.loaded.model
    return model.net if isinstance(model, ThresholdedModel) else model


METHODS: dict[str, Callable[[Subject, Sequence[int], torch.Generator], Maps]] = {
    "occlusion": occlusion,
    "rise": rise,
    "grad_cam": grad_cam,
}
