"""Writing an explanation: one HTML page with frames under heat maps, the time, and the modalities."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from reeltag.inference.explain import Explained, Explanation
from reeltag.report.charts import column_chart
from reeltag.store.atomic import write_atomic

_FOLDER = Path(__file__).parent
_FRAME_PX, _JPEG_QUALITY = 240, 82
# From cold to hot: each colour is brighter than the one before, so that the scale reads in grey as well.
_COLOURS = np.array([(10, 8, 40), (95, 20, 110), (190, 55, 85), (250, 145, 20), (252, 250, 160)], dtype=np.float64)
_MOST, _LEAST_HEAT = 0.72, 0.15  # opacity of the hottest place; heat below this share is not shown


@dataclass(frozen=True)
class _Shown:
    uri: str
    caption: str
    best: bool = False


def write_explanation(out: Path, explained: Explained) -> Path:
    """Write one self-contained HTML page about a video and return its path.

    Args:
        out: the file; its folder is made when missing.
        explained: of `reeltag.inference.explain`.
    """
    frames = None if explained.frames is None else [_small(frame) for frame in explained.frames]
    captions = [f"{time_s:.2f} s" for time_s in explained.frames_s]
    environment = Environment(
        loader=PackageLoader("reeltag", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("explanation.html").render(
        title=f"Why: {Path(explained.video).name}",
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        scale=Markup(_scale()),
        video=explained.video,
        columns=len(captions),
        method=explained.method.replace("grad_cam", "Grad-CAM").replace("rise", "RISE"),
        frames=[] if frames is None else [_Shown(_uri(f), c) for f, c in zip(frames, captions, strict=True)],
        labels=[_label(one, frames, captions) for one in explained.explanations],
    )
    write_atomic(out, page.encode())
    return out


def _label(one: Explanation, frames: list[NDArray[np.uint8]] | None, captions: Sequence[str]) -> dict[str, Any]:
    spans = [f"{part.start_s:.1f}-{part.end_s:.1f}" for part in one.time]
    names, lost = list(one.modalities), list(one.modalities.values())
    return {
        "label": one.label,
        "score": f"{one.score:.3f}",
        "frames": [] if frames is None or one.maps is None else _heated(one.maps, frames, captions),
        "place": _place_text(one),
        "time": column_chart(
            [part.evidence for part in one.time], names=spans, x_label="seconds", y_label="log odds lost"
        ),
        "modalities": column_chart(lost, names=names, x_label="without", y_label="score lost"),
    }


def _place_text(one: Explanation) -> str:
    if one.place is None:
        return "No place speaks for this label."
    left, top, right, bottom = (f"{edge:.0%}" for edge in one.place.box)
    return (
        f"Strongest at {one.place.frame_s:.2f} s, {left} to {right} from the left and {top} to {bottom} from the top: "
        f"hidden then and there alone, the score falls by {one.place.drop:.3f} and its log odds by "
        f"{one.place.evidence:.2f}."
    )


def _heated(maps: NDArray[np.float32], frames: list[NDArray[np.uint8]], captions: Sequence[str]) -> list[_Shown]:
    most = max(float(maps.max()), 1e-9)
    best = int(maps.reshape(len(maps), -1).max(1).argmax())
    shown = []
    for place, (heat, frame, caption) in enumerate(zip(maps, frames, captions, strict=True)):
        height, width = frame.shape[:2]
        share = Image.fromarray(np.clip(heat / most, 0, 1).astype(np.float32))
        large = np.clip(np.asarray(share.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)
        opacity = _MOST * np.clip((large - _LEAST_HEAT) / (1 - _LEAST_HEAT), 0, 1)[..., None]
        grey = frame.mean(2, keepdims=True) * 0.5 + frame * 0.5  # so that colours of the heat stand out
        mixed = grey * (1 - opacity) + _colour(large) * opacity
        shown.append(_Shown(_uri(mixed.round().astype(np.uint8)), caption, best=place == best))
    return shown


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    scale = _FRAME_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _uri(frame: NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _colour(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (..., 3) in 0-255 of shares in [0, 1]."""
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(share, stops, channel) for channel in _COLOURS.T], -1)


def _scale() -> str:
    stops = (f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in _COLOURS.tolist())
    return f"linear-gradient(90deg, {', '.join(stops)})"
