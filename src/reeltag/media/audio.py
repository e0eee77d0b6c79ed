"""A sound track as one channel of floats at a wanted rate, placed on a clock."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import torch
from av.container.input import InputContainer
from av.error import FFmpegError
from numpy.typing import NDArray
from torch import Tensor

from reeltag.media.container import Deadline, audio_stream, heard, open_container, single_thread
from reeltag.media.gate import Admitted
from reeltag.media.limits import Limits

_GAP_S = 0.05  # smaller steps between time stamps are rounding, larger ones are silence or missing packets


@dataclass(frozen=True)
class Placement:
    """Where sound is put.

    Attributes:
        origin_s: time of sample 0 on the file's own clock.
        num_samples: length of the result; the rest is cut, what is missing is 0.
    """

    origin_s: float
    num_samples: int


def read_sound(admitted: Admitted, limits: Limits, rate_hz: int, placement: Placement | None) -> Tensor:
    """Return the sound of an admitted file, float32 (N,) in [-1, 1]; see `read_track`.

    Raises:
        ValueError: `rate_hz` is not above 0.
        MediaError: no sound track (unsupported), encrypted, timeout.
    """
    if rate_hz <= 0:
        raise ValueError(f"rate_hz must be above 0, got {rate_hz}")
    if "audio" in admitted.boxes.encrypted:
        raise admitted.error("encrypted", "the sound track is encrypted; give a file without protection")
    with open_container(admitted, limits) as container:
        stream = audio_stream(container)
        if stream is None:
            raise admitted.error("unsupported", "no sound track that can be decoded; ask has_audio first")
        samples = read_track(container, stream, rate_hz, placement, Deadline(admitted, limits), limits.max_duration_s)
    return torch.from_numpy(samples)


def read_track(
    container: InputContainer,
    stream: av.AudioStream,
    rate_hz: int,
    placement: Placement | None,
    deadline: Deadline,
    max_duration_s: float,
) -> NDArray[np.float32]:
    """Return (N,) float32 in [-1, 1]: the mean of the channels, resampled, with gaps in time filled by zeros.

    Args:
        container: the open file.
        stream: its sound track.
        rate_hz: samples per second of the result.
        placement: clock and length; None starts at the first sample and takes all.
        deadline: when to give up.
        max_duration_s: sound beyond it is not read.

    Packets that cannot be decoded leave zeros in their place.
    """
    single_thread(stream)
    source_hz = stream.codec_context.sample_rate
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    to_float = av.AudioResampler(format="fltp")
    blocks: list[tuple[int, NDArray[np.float32]]] = []  # first sample at the source's rate, samples
    origin_s = placement.origin_s if placement else None
    end_s = (origin_s or 0) + placement.num_samples / rate_hz if placement else None
    following = 0
    with heard():
        for frame in _frames(container, stream, deadline):
            start_s = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else None
            if origin_s is None:
                origin_s = start_s or 0.0
            if end_s is not None and start_s is not None and start_s > end_s + 1:
                break
            expected = following if start_s is None else round((start_s - origin_s) * source_hz)
            if blocks and abs(expected - following) < _GAP_S * source_hz:
                expected = following
            if expected + frame.samples > max_duration_s * source_hz:
                break
            for converted in to_float.resample(frame):
                mono = converted.to_ndarray().reshape(len(converted.layout.channels), -1).mean(0, dtype=np.float32)
                blocks.append((expected, mono))
                expected += len(mono)
            following = expected
    return _place(blocks, source_hz, rate_hz, placement.num_samples if placement else None)


def _frames(container: InputContainer, stream: av.AudioStream, deadline: Deadline):  # type: ignore[no-untyped-def]
    """Yield decoded frames; damaged packets are left out, and a file that breaks off ends the sound."""
    packets = container.demux(stream)
    while True:
        deadline.check()
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError:
            continue


def _place(
    blocks: list[tuple[int, NDArray[np.float32]]], source_hz: int, rate_hz: int, num_samples: int | None
) -> NDArray[np.float32]:
    """Put blocks on a line of zeros that begins at sample 0, and resample the line."""
    end = max((start + len(block) for start, block in blocks), default=0)
    wanted = end if num_samples is None else round(num_samples * source_hz / rate_hz)
    line = np.zeros(max(0, min(end, wanted + source_hz // 10)), dtype=np.float32)
    for start, block in blocks:
        first, last = max(0, start), min(len(line), start + len(block))
        if first < last:
            line[first:last] = block[first - start : last - start]
    samples = line if source_hz == rate_hz else resample(line, source_hz, rate_hz)
    if num_samples is None:
        num_samples = round(len(line) * rate_hz / source_hz)
    out = np.zeros(num_samples, dtype=np.float32)
    count = min(num_samples, len(samples))
    out[:count] = samples[:count]
    return np.clip(out, -1, 1, out=out)


def resample(line: NDArray[np.float32], source_hz: int, rate_hz: int) -> NDArray[np.float32]:
    """Return float32 (N,) samples at another rate, without delay."""
    if not len(line):
        return line
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
    pieces = []
    for at in range(0, len(line), 1 << 20):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(line[None, at : at + (1 << 20)]), format="flt", layout="mono"
        )
        frame.sample_rate = source_hz
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
