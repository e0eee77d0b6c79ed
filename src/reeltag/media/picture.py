"""A decoded frame as upright RGB pixels."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

_FULL_RANGE = 2  # of AVColorRange: 0-255


class Painter:
    """Turns decoded frames into RGB; one per video, because the converter is set up once and kept.

    Colours: the matrix (BT.601, BT.709, BT.2020) and the range that the file states; BT.601 and limited range where it
    states none, as FFmpeg, OpenCV and decord do. Deep colour is rounded to 8 bits, HDR is not tone-mapped. Alpha is
    dropped: the stored colour is returned as it is, neither multiplied by alpha nor blended with a background.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (H, W, 3), 0-255, turned and mirrored as the file's display matrix says; a view, to be copied."""
        converted = self._reformatter.reformat(frame, format="rgb24", dst_color_range=_FULL_RANGE, threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)  # rows may be padded
        stored = rows[: converted.height, : converted.width * 3].reshape(converted.height, converted.width, 3)
        return _upright(stored, frame)


def _upright(stored: NDArray[np.uint8], frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a view of the pixels as the frame's display matrix shows them; turns that are no quarter are not done."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return stored
    matrix = np.frombuffer(cast(bytes, side), dtype=np.int32).reshape(3, 3)
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return stored[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return stored.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return (height, width, 3): a picture of another size scaled, for streams whose size changes on the way."""
    channels_first = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    scaled: Tensor = torch.nn.functional.interpolate(channels_first, (height, width), mode="bilinear", antialias=True)
    return np.asarray(scaled[0].permute(1, 2, 0).numpy())
