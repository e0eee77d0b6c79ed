"""A sound track as one channel of floats at a wanted rate, placed on a clock."""

from __future__ import annotations

import math
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

_PIECE = 1 << 20  # samples that are resampled at once
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
    line = _Line(source_hz, rate_hz, placement.num_samples if placement else None)
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
            if line.end and abs(expected - following) < _GAP_S * source_hz:
                expected = following
            if expected + frame.samples > max_duration_s * source_hz:
                break
            for converted in to_float.resample(frame):
                mono = converted.to_ndarray().reshape(len(converted.layout.channels), -1).mean(0, dtype=np.float32)
                line.put(expected, mono)
                expected += len(mono)
            following = expected
    return line.finish()


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


class _Line:
    """A line of zeros from sample 0 on that blocks are put on; what is settled is resampled and let go.

    So a long track is held at the wanted rate alone. Blocks come in the order of the file; one that starts before its
    predecessors ended, by a time stamp that jumps back, replaces them as far as they are held (the last ten seconds).

    Args:
        source_hz: samples per second of the blocks.
        rate_hz: of the result.
        num_samples: of the result; None takes all.

    Attributes:
        end: where the farthest block ended, at the source's rate.
    """

    def __init__(self, source_hz: int, rate_hz: int, num_samples: int | None) -> None:
        self._source_hz, self._rate_hz, self._num_samples = source_hz, rate_hz, num_samples
        self._limit: float = math.inf
        if num_samples is not None:  # a little more, so that the resampler's filter is filled
            self._limit = round(num_samples * source_hz / rate_hz) + source_hz // 10
        self._held = np.zeros(_PIECE + 10 * source_hz, dtype=np.float32)
        self._first = 0  # sample of the line that `_held` begins with
        self._resampler = None if source_hz == rate_hz else _Resampler(rate_hz, source_hz)
        self._out = np.zeros(num_samples or 0, dtype=np.float32)
        self._filled = 0
        self._pieces: list[NDArray[np.float32]] = []
        self.end = 0

    def put(self, start: int, block: NDArray[np.float32]) -> None:
        """Put samples on the line; what lies before its start, or is settled already, is cut."""
        stop = int(min(start + len(block), self._limit))
        self.end = max(self.end, start + len(block))
        at = max(start, self._first, 0)
        while at < stop:
            while at >= self._first + len(self._held):
                self._settle()
            until = min(stop, self._first + len(self._held))
            self._held[at - self._first : until - self._first] = block[at - start : until - start]
            at = until

    def finish(self) -> NDArray[np.float32]:
        """Return the samples, float32 in [-1, 1]."""
        length = int(max(0, min(self.end, self._limit)))
        while self._first + _PIECE < length:
            self._settle()
        self._take(self._held[: max(0, length - self._first)])
        if self._resampler is not None and length:
            self._keep(self._resampler.finish())
        if self._num_samples is None:
            wanted = round(length * self._rate_hz / self._source_hz)
            samples = np.concatenate(self._pieces) if self._pieces else self._out
            self._out = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return np.clip(self._out, -1, 1, out=self._out)

    def _settle(self) -> None:
        self._take(self._held[:_PIECE])
        self._held[:-_PIECE] = self._held[_PIECE:].copy()
        self._held[-_PIECE:] = 0
        self._first += _PIECE

    def _take(self, samples: NDArray[np.float32]) -> None:
        if len(samples):
            self._keep(samples.copy() if self._resampler is None else self._resampler.feed(samples))

    def _keep(self, samples: NDArray[np.float32]) -> None:
        if self._num_samples is None:
            self._pieces.append(samples)
            return
        count = min(len(samples), len(self._out) - self._filled)
        self._out[self._filled : self._filled + count] = samples[:count]
        self._filled += count


class _Resampler:
    """One channel at another rate, piece by piece, without delay."""

    def __init__(self, rate_hz: int, source_hz: int) -> None:
        self._source_hz = source_hz
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is ready after these (n,) samples."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = self._source_hz
        return self._joined(frame)

    def finish(self) -> NDArray[np.float32]:
        """Return the rest."""
        return self._joined(None)

    def _joined(self, frame: av.AudioFrame | None) -> NDArray[np.float32]:
        pieces = [piece.to_ndarray()[0] for piece in self._resampler.resample(frame)]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)


def resample(line: NDArray[np.float32], source_hz: int, rate_hz: int) -> NDArray[np.float32]:
    """Return float32 (N,) samples at another rate, without delay."""
    if not len(line):
        return line
    resampler = _Resampler(rate_hz, source_hz)
    pieces = [resampler.feed(line[at : at + _PIECE]) for at in range(0, len(line), _PIECE)]
    return np.concatenate([*pieces, resampler.finish()])
