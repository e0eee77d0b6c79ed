"""Which frames of a video make a clip: index arithmetic alone, for training (with a generator) and for test views."""

from __future__ import annotations

import torch


def _check(num_in_video: int, **counts: int) -> None:
    if num_in_video < 1:
        raise ValueError(f"the video must have at least 1 frame, got {num_in_video}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _randint(high: int, count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randint(high, (count,), generator=generator).tolist()
    return drawn


def repeat_pad(indices: list[int], length: int) -> list[int]:
    """Return `length` indices: the given ones, played again from their start as often as needed, then cut.

    Raises:
        ValueError: `indices` is empty or `length` is below 1.
    """
    if not indices or length < 1:
        raise ValueError(f"need at least one index and a length of at least 1, got {len(indices)} and {length}")
    return [indices[i % len(indices)] for i in range(length)]


def segments(
    num_in_video: int, num_frames: int, *, span: int = 1, generator: torch.Generator | None = None
) -> list[int]:
    """Return one index from each of `num_frames` equal segments: drawn at random in training, the centre in test.

    Paper: Wang et al. Temporal Segment Networks. ECCV 2016, arXiv:1608.00859, section 3.1. Training follows the
    published code of TSN, TSM and TIN: segments of floor(M / T) frames, M = num_in_video - span + 1, from frame 0 on.
    Test: int(tick / 2 + tick * k), tick = M / T. Departure: where a video has fewer frames than segments the published
    training code repeats frame 0; here the test rule repeats every frame evenly.

    Args:
        num_in_video: frames of the video, >= 1.
        num_frames: T, the segments.
        span: frames that are read from each index on (5 for stacked flow); the last index leaves room for them.
        generator: for training; None gives the centres.

    Returns:
        T indices in [0, num_in_video), ascending.

    Raises:
        ValueError: a count is below 1.
    """
    _check(num_in_video, num_frames=num_frames, span=span)
    places = max(1, num_in_video - span + 1)
    each = places // num_frames
    if generator is not None and each > 0:
        offsets = _randint(each, num_frames, generator)
        return [k * each + offset for k, offset in enumerate(offsets)]
    if generator is not None and num_in_video > num_frames:
        return sorted(_randint(places, num_frames, generator))  # room is short because of the span alone
    tick = places / num_frames
    return [int(tick / 2 + tick * k) for k in range(num_frames)]


def segments_twice(num_in_video: int, num_frames: int, *, span: int = 1) -> list[int]:
    """Return the centres and then the starts of the segments, 2 T indices: the two-clip test of TSM's published code.

    Args, Raises: as `segments`.
    """
    centres = segments(num_in_video, num_frames, span=span)
    tick = max(1, num_in_video - span + 1) / num_frames
    return centres + [int(tick * k) for k in range(num_frames)]


def _strided(start: int, num_in_video: int, num_frames: int, stride: int) -> list[int]:
    return [(start + i * stride) % num_in_video for i in range(num_frames)]


def dense(num_in_video: int, num_frames: int, stride: int, *, generator: torch.Generator | None = None) -> list[int]:
    """Return `num_frames` indices `stride` apart, as I3D samples; a video that is too short starts over.

    Paper: Carreira, Zisserman. Quo Vadis. CVPR 2017, arXiv:1705.07750, section 2.4. The rule is that of TSM's published
    code (64 frames, stride 64 // T, modulo the length).

    Args:
        num_in_video: frames of the video, >= 1.
        num_frames: T.
        stride: frames from one index to the next; a clip covers T * stride frames.
        generator: draws the start from [0, max(1, num_in_video - T * stride + 1)); None takes the middle one.

    Returns:
        T indices in [0, num_in_video), ascending unless the video starts over.

    Raises:
        ValueError: a count is below 1.
    """
    _check(num_in_video, num_frames=num_frames, stride=stride)
    starts = max(1, num_in_video - num_frames * stride + 1)
    start = (starts - 1) // 2 if generator is None else _randint(starts, 1, generator)[0]
    return _strided(start, num_in_video, num_frames, stride)


def dense_clips(num_in_video: int, num_frames: int, stride: int, num_clips: int) -> list[list[int]]:
    """Return test clips of `dense` whose starts are spread evenly from the first to the last possible one.

    Args:
        num_in_video: frames of the video, >= 1.
        num_frames: T.
        stride: as in `dense`.
        num_clips: K; 10 in TSM's dense test. 1 takes the middle.

    Returns:
        K lists of T indices in [0, num_in_video).

    Raises:
        ValueError: a count is below 1.
    """
    _check(num_in_video, num_frames=num_frames, stride=stride, num_clips=num_clips)
    last = max(0, num_in_video - num_frames * stride)
    return [_strided(start, num_in_video, num_frames, stride) for start in _even_starts(last, num_clips)]


def _even_starts(last: int, num_clips: int) -> list[int]:
    if num_clips == 1:
        return [last // 2]
    return [last * i // (num_clips - 1) for i in range(num_clips)]


def even_clips(num_in_video: int, num_frames: int, stride: int, num_clips: int) -> list[list[int]]:
    """Return test clips spread evenly in time, the first at the start and the last at the end of the video.

    Paper: Feichtenhofer et al. SlowFast. ICCV 2019, arXiv:1812.03982, section 4 (10 clips); 6 clips in the Alibaba
    entry of Multi-Moments in Time 2019. A clip that runs past the end holds the last frame, as
    in SlowFast's published code.

    Args:
        num_in_video: frames of the video, >= 1.
        num_frames: T.
        stride: frames from one index to the next; a clip covers T * stride frames.
        num_clips: K; 1 takes the middle.

    Returns:
        K lists of T indices in [0, num_in_video), each ascending.

    Raises:
        ValueError: a count is below 1.
    """
    _check(num_in_video, num_frames=num_frames, stride=stride, num_clips=num_clips)
    starts = _even_starts(max(0, num_in_video - num_frames * stride), num_clips)
    return [[min(start + i * stride, num_in_video - 1) for i in range(num_frames)] for start in starts]


def random_clip(num_in_video: int, num_frames: int, stride: int, *, generator: torch.Generator) -> list[int]:
    """Return a training clip of `even_clips`: `stride` apart from a random start, holding the last frame if too short.

    Args:
        num_in_video: frames of the video, >= 1.
        num_frames: T.
        stride: frames from one index to the next.
        generator: draws the start from [0, num_in_video - T * stride], or 0 where the video is shorter.

    Returns:
        T indices in [0, num_in_video), ascending.

    Raises:
        ValueError: a count is below 1.
    """
    _check(num_in_video, num_frames=num_frames, stride=stride)
    start = _randint(max(0, num_in_video - num_frames * stride) + 1, 1, generator)[0]
    return [min(start + i * stride, num_in_video - 1) for i in range(num_frames)]


def uniform_depth(num_in_video: int, *, min_depth: int = 16, max_depth: int = 64) -> list[int]:
    """Return all frames where their number is between the depths, else evenly sampled or repeated ones.

    RippleAI's entry of Multi-Moments in Time 2019 keeps the temporal depth between 16 and 64: a longer video is sampled
    uniformly. That a shorter one is played again from its start (`repeat_pad`) is assumed. Equal depths give every
    video the same length, which batches need.

    Args:
        num_in_video: frames of the video, >= 1.
        min_depth: the fewest indices returned.
        max_depth: the most, >= min_depth.

    Returns:
        Between min_depth and max_depth indices in [0, num_in_video).

    Raises:
        ValueError: a count is below 1, or the depths are the wrong way round.
    """
    _check(num_in_video, min_depth=min_depth, max_depth=max_depth)
    if min_depth > max_depth:
        raise ValueError(f"min_depth {min_depth} must not be above max_depth {max_depth}")
    if num_in_video > max_depth:
        return segments(num_in_video, max_depth)
    return repeat_pad(list(range(num_in_video)), max(num_in_video, min_depth))
