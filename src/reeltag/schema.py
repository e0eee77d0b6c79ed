"""The values that cross rooms, and the letters of every docstring.

B batch, T frames, C channels, H W pixels, L labels, D feature size, K clusters, M modalities, V views, N videos.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

if TYPE_CHECKING:
    from torch import Tensor

InputKind = Literal["rgb", "flow", "features", "waveform", "fusion"]
Modality = Literal["rgb", "flow", "audio"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)  # their order everywhere
INPUT_NAMES: dict[Modality, str] = {"rgb": "video", "flow": "flow", "audio": "waveform"}  # of the tensors in a batch


class Batch(TypedDict, total=False):
    """A batch: `targets`, `ignore` (B, L), `rows` (B,) of the manifest, and what the recipe's modalities are.

    `video` is uint8 (B, V, T, 3, H, W) RGB; `flow` uint8 (B, V, T, 2k, H, W), zero at 128; `waveform` float32 (B, V, N)
    in [-1, 1] (beyond it after a gain). `present` bool (B, M), in the recipe's order of modalities, is False where a
    clip has no such track or a silent one; it is there when sound or more than one modality is asked for. What stands
    in an absent place is zeros (128 for flow) and reaches no result. Or, in place of all these, `features` float
    (B, V, T, D) with `mask` bool (B, V, T), True = real frame.

    `bad` lists the files that could not be read, `absent` the rows that have none of the modalities: neither is among
    `rows`.
    """

    video: Tensor
    flow: Tensor
    waveform: Tensor
    present: Tensor
    features: Tensor
    mask: Tensor
    targets: Tensor
    ignore: Tensor
    rows: Tensor
    bad: list[dict[str, Any]]
    absent: list[int]


@dataclass(frozen=True)
class Tags:
    """The labels of one video, best first.

    Attributes:
        video: the file as the caller named it.
        labels: label names by falling score.
        scores: probabilities in [0, 1], in the order of `labels`.
        thresholds: the score from which a label counts as present.
        modalities: what was used; `missing`: what the model takes and the file has not.
        duration_s: length of the video in seconds.
        damaged: the file had errors; the tags rest on the frames that could be read.
    """

    video: str
    labels: list[str]
    scores: list[float]
    thresholds: list[float]
    modalities: list[str] = field(default_factory=lambda: ["rgb"])
    missing: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    damaged: bool = False

    @property
    def present(self) -> list[str]:
        """The labels whose score reaches their threshold, best first."""
        rows = zip(self.labels, self.scores, self.thresholds, strict=True)
        return [label for label, score, threshold in rows if score >= threshold]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return the line of `reeltag tag --json` as a dictionary; `top` keeps the best labels alone."""
        rows = list(zip(self.labels, self.scores, self.thresholds, strict=True))[:top]
        return {
            "video": self.video,
            "labels": [
                {
                    "label": label,
                    "score": round(score, 6),
                    "threshold": round(threshold, 6),
                    "present": score >= threshold,
                }
                for label, score, threshold in rows
            ],
            "modalities": self.modalities,
            "missing": self.missing,
            "duration_s": round(self.duration_s, 3),
            "damaged": self.damaged,
        }

    def to_json(self, top: int | None = None) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(top), ensure_ascii=False)
