"""Optical flow between frames (home of OpenCV): TV-L1 and DIS, and how flow is stored in one byte a component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.errors import ReeltagError

FlowMethod = Literal["tvl1", "dis"]
FlowFunction = Callable[[Tensor, Tensor], Tensor]
"""uint8 (P, 3, H, W) twice -> float32 (P, 2, H, W): a method from elsewhere, such as RAFT."""

ZERO = 128  # the byte of no motion
_STEPS = 127  # bytes on each side of it, so that a flip maps q to 256 - q exactly
IMAGE_BOUND_PX, IMAGE_FPS = 40.0, 15.0
_DIS_MIN_PX = 16  # OpenCV 5.0 ends the process with a segmentation fault on a wide picture that is lower than this
_PAIRS_AT_ONCE = 8


def compute_flow(
    frames: Tensor, pairs: Sequence[tuple[int, int]], method: FlowMethod | FlowFunction = "tvl1"
) -> Tensor:
    """Return the optical flow of pairs of frames.

    What is at (x, y) in the first frame of a pair is at (x + u, y + v) in the second; x points right and y down, so
    something that moves to the left has u < 0. `tvl1` is Zach, Pock, Bischof (DAGM 2007) as OpenCV has it, with its
    default settings, which TSN and I3D used; `dis` is Kroeger et al. (ECCV 2016, arXiv:1603.03590), preset medium, some
    hundred times faster. Both see the grey picture (ITU-R 601 luma).

    Args:
        frames: uint8 (T, 3, H, W) RGB.
        pairs: numbers of the first and the second frame.
        method: a name, or a function that takes the first and the second frames of some pairs, see `FlowFunction`.

    Returns:
        float32 (P, 2, H, W): u and v in pixels of these frames. One thread or many, the numbers are the same.

    Raises:
        ValueError: no frames of this form, or a pair that is not among them.
        ReeltagError: OpenCV, or for `tvl1` its contrib part, is not installed.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or 0 in frames.shape:
        raise ValueError(f"flow needs frames uint8 (T, 3, H, W), got {frames.dtype} {tuple(frames.shape)}")
    outside = [pair for pair in pairs if not 0 <= min(pair) <= max(pair) < len(frames)]
    if outside:
        raise ValueError(f"pair {outside[0]} is not among {len(frames)} frames")
    flow = torch.empty(len(pairs), 2, *frames.shape[2:])
    if callable(method):
        for first in range(0, len(pairs), _PAIRS_AT_ONCE):
            ones, others = zip(*pairs[first : first + _PAIRS_AT_ONCE], strict=True)
            flow[first : first + len(ones)] = method(frames[list(ones)], frames[list(others)]).detach().float().cpu()
        return flow
    cv2 = require_opencv(method)
    with _threads(cv2):
        solver = _solver(cv2, method)
        grey = {number: _grey(cv2, frames[number], method) for number in sorted({n for pair in pairs for n in pair})}
        for place, (one, other) in enumerate(pairs):
            field = solver.calc(grey[one], grey[other], None)[: frames.shape[2], : frames.shape[3]]  # (H, W, 2)
            flow[place] = torch.from_numpy(field).permute(2, 0, 1)
    return flow


def flow_between(first: Tensor, second: Tensor, method: FlowMethod | FlowFunction = "tvl1") -> Tensor:
    """Return float32 (2, H, W), the flow from one frame uint8 (3, H, W) to another; see `compute_flow`."""
    return compute_flow(torch.stack([first, second]), [(0, 1)], method)[0]


def pairs_of(num_frames: int, step: int = 1) -> list[tuple[int, int]]:
    """Return one pair (i, i + step) a frame; where i + step is past the end, the last pair that exists.

    A flow track is thus as long as the frames. A video of at most `step` frames gives (0, its last frame) throughout.
    """
    last = max(num_frames - 1 - step, 0)
    return [(min(i, last), min(min(i, last) + step, num_frames - 1)) for i in range(num_frames)]


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Return a field (P, 2, H, W) at another size, bilinear with antialias; its vectors are in pixels of that size."""
    if flow.shape[2:] == (height, width):
        return flow
    scale = torch.tensor([width / flow.shape[3], height / flow.shape[2]], dtype=flow.dtype, device=flow.device)
    size = (height, width)
    return torch.nn.functional.interpolate(flow, size, mode="bilinear", antialias=True) * scale[:, None, None]


def quantise(flow: Tensor, bound_px: float = 20.0) -> Tensor:
    """Return flow as uint8 in 1..255: 128 is no motion, 255 is `bound_px` or more, 1 its negative or less.

    q = 128 + round(127 * clip(flow / bound_px, -1, 1)), halves to even, so that -flow gives exactly 256 - q: a flipped
    clip has the bytes that the flipped video would have. Published code maps [-bound, bound] to 0..255, where no motion
    falls between two bytes and a flip is off by one.

    Args:
        flow: (..., H, W) in pixels, any floating type.
        bound_px: what is clipped, 20 as in I3D and TSN.

    Raises:
        ValueError: the flow is not finite, or `bound_px` is not above 0.
    """
    if not bound_px > 0:
        raise ValueError(f"bound_px must be above 0, got {bound_px}")
    if not flow.isfinite().all():
        raise ValueError("the flow holds NaN or infinity; nothing is stored in its place")
    steps = (flow.float() * (_STEPS / bound_px)).round().clamp(-_STEPS, _STEPS)
    return (steps + ZERO).to(torch.uint8)


def dequantise(stored: Tensor, bound_px: float = 20.0) -> Tensor:
    """Return float32 pixels of `quantise`'s bytes: within bound_px / 254 of the flow that was not clipped.

    `quantise(dequantise(q)) == q` for each byte in 1..255; 0, which is never written, reads as 1.
    """
    return (stored.float() - ZERO).clamp(min=-_STEPS) * (bound_px / _STEPS)


def flow_image(flow: Tensor, bound_px: float = IMAGE_BOUND_PX) -> Tensor:
    """Return flow (P, 2, H, W) as RGB pictures, uint8 (P, 3, H, W): quantised x and y, and zeros.

    Paper: Ng et al. Beyond Short Snippets. CVPR 2015, arXiv:1503.08909, section 3.3: clipped at +-40 px, from adjacent
    frames at 15 fps, the third channel zero, so that a network trained on images takes it unchanged. No motion is 128
    (there 127.5), which keeps flips exact.
    """
    stored = quantise(flow, bound_px)
    return torch.cat([stored, torch.zeros_like(stored[:, :1])], 1)  # (P, 3, H, W)


def require_opencv(method: str = "tvl1") -> ModuleType:
    """Return OpenCV, or raise ReeltagError when it is missing or has no TV-L1; ValueError for an unknown method."""
    if method not in ("tvl1", "dis"):
        raise ValueError(f"flow method {method!r} is neither 'tvl1' nor 'dis', nor a function")
    try:
        import cv2
    except ImportError:
        raise ReeltagError("optical flow needs OpenCV, which is missing: pip install 'reeltag[flow]'") from None
    if method == "tvl1" and not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        raise ReeltagError(
            "this OpenCV has no TV-L1, which is in its contrib package: pip uninstall opencv-python "
            "opencv-python-headless, then pip install 'reeltag[flow]'; or choose the method dis"
        )
    module: ModuleType = cv2
    return module


def _solver(cv2: Any, method: str) -> Any:
    if method == "tvl1":
        return cv2.optflow.DualTVL1OpticalFlow_create()
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def _grey(cv2: Any, frame: Tensor, method: str) -> NDArray[np.uint8]:
    """Return (H, W); for DIS a tiny picture is continued by its own edge, right and below."""
    pixels = np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy())
    grey = np.atleast_2d(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    height, width = frame.shape[1:]
    if method == "dis" and min(height, width) < _DIS_MIN_PX:
        padding = ((0, max(_DIS_MIN_PX - height, 0)), (0, max(_DIS_MIN_PX - width, 0)))
        grey = np.pad(grey, padding, mode="edge")
    return grey


@contextmanager
def _threads(cv2: Any) -> Iterator[None]:
    """Let OpenCV use as many threads as torch, one in a loader process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(torch.get_num_threads())
    try:
        yield
    finally:
        cv2.setNumThreads(before)
