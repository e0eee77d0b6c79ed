"""One open video of a footage: its frames, flow and sound, from a file or from packed shards."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from reeltag.data.manifest import Manifest
from reeltag.data.pack_clip import shrink, shrunk_size
from reeltag.data.shards import PackedVideos
from reeltag.errors import MediaError
from reeltag.media import Sound, Video
from reeltag.media.audio import resample
from reeltag.sections import FlowSection


class FlowTracks(Protocol):
    """A store of flow, by row: as many frames as the pictures it was made of, or fewer at another rate."""

    manifest: Manifest
    settings: Any

    def num_frames(self, row: int) -> int:
        """Return how many are stored."""
        ...

    def flow(self, row: int, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, 2, H, W), or (T, 3, H, W) with a third channel of zeros."""
        ...


class Source(ABC):
    """Frames, flow and sound of one clip. Use it in a `with` statement.

    Args:
        path: for messages.
        num_frames: of the clip; 0 where there is sound alone.
        fps: their rate; 0 likewise.
        stored_flow: a store and the clip's row in it, or None where flow is made of the frames.
        flow_missing: there is a store, and it lacks this clip.
    """

    damaged = False

    def __init__(
        self,
        path: str,
        num_frames: int,
        fps: float,
        stored_flow: tuple[FlowTracks, int] | None = None,
        flow_missing: bool = False,
    ) -> None:
        self.path, self.num_frames, self.fps = path, num_frames, fps
        self._stored_flow = stored_flow
        # One frame has no motion, and what stands for it must not look like a still scene.
        self.has_flow = num_frames > 1 and not flow_missing
        self._kept: dict[int, int] = {}
        self._frames: Tensor | None = None

    @property
    @abstractmethod
    def has_audio(self) -> bool:
        """A sound track is there."""

    @property
    @abstractmethod
    def duration_s(self) -> float:
        """Seconds of the clip."""

    @abstractmethod
    def _read(self, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, 3, H, W)."""

    @abstractmethod
    def waveform(self, rate_hz: int) -> Tensor | None:
        """Return the clip's sound as one channel, float32 (N,) in [-1, 1], or None where there is none to be heard.

        Sample 0 is at the first frame; sound that is shorter than the pictures is followed by zeros, longer is cut.
        """

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, 3, H, W) RGB, exactly these frames in this order.

        Raises:
            MediaError: they cannot be read.
        """
        if self._frames is not None and self._kept.keys() >= set(indices):
            places = [self._kept[index] for index in indices]
            first, last = places[0], places[0] + len(places)
            run = places == list(range(first, last))  # a view: copying every frame costs as much as decoding its sound
            return self._frames[first:last] if run else self._frames[places]
        return self._read(indices)

    def flow_at(self, indices: Sequence[int], flow: FlowSection) -> Tensor:
        """Return uint8 (T, 2 * stack, h, w): x and y at i, i + 1, ... for each i of `indices`, zero at 128.

        Where there is no store, it is computed from the frames i and i + step; where i + step is past the end, from the
        last pair that exists. It has the size that it is stored or measured at, not that of the frames.

        Args:
            indices: frame numbers of the clip.
            flow: the recipe's section; of a store only `stack` matters, since the rest is done.

        Raises:
            MediaError: the frames cannot be read.
            ReeltagError: OpenCV is not installed.
        """
        if self._stored_flow is not None:
            store, row = self._stored_flow
            total = store.num_frames(row)
            starts = indices if total == self.num_frames else [i * total // self.num_frames for i in indices]
            places = [min(i + k, total - 1) for i in starts for k in range(flow.stack)]
            return store.flow(row, places)[:, :2].unflatten(0, (len(indices), -1)).flatten(1, 2)
        pairs = self._pairs(indices, flow)
        return self._made(pairs, flow).unflatten(0, (len(indices), -1)).flatten(1, 2)  # (T, 2 * stack, H, W)

    def _made(self, pairs: list[tuple[int, int]], flow: FlowSection) -> Tensor:
        from reeltag.media.flow import compute_flow, quantise, resize_flow

        if flow.method == "raft":
            raise MediaError(
                "unsupported", self.path, "raft needs a GPU; store its flow with `reeltag flow --method raft`"
            )
        different = sorted(set(pairs))
        numbers = sorted({number for pair in different for number in pair})
        frames = self.frames_at(numbers)
        height, width = frames.shape[2:]
        size = shrunk_size(height, width, flow.short_side_px or min(height, width))
        computed_px = flow.compute_px or flow.short_side_px
        shown = shrink(frames, computed_px) if computed_px else frames
        place = {number: index for index, number in enumerate(numbers)}
        fields = compute_flow(shown, [(place[one], place[other]) for one, other in different], flow.method)
        stored = quantise(resize_flow(fields, *size), flow.bound_px)
        order = {pair: index for index, pair in enumerate(different)}
        return stored[[order[pair] for pair in pairs]]  # (T * stack, 2, H, W)

    def _pairs(self, indices: Sequence[int], flow: FlowSection) -> list[tuple[int, int]]:
        """Return the frames of each pair, `stack` pairs an index."""
        apart = max(1, round(self.fps / flow.fps)) if flow.fps and self.fps else 1
        step = flow.step * apart
        last = max(self.num_frames - 1 - step, 0)
        starts = [min(i + k * apart, last) for i in indices for k in range(flow.stack)]
        return [(i, min(i + step, self.num_frames - 1)) for i in starts]

    def needed(self, indices: Sequence[int], flow: FlowSection | None) -> list[int]:
        """Return the frames, ascending, that `frames_at` and, with `flow`, `flow_at` read for these indices."""
        wanted = set(indices)
        if flow is not None and self._stored_flow is None:
            wanted |= {number for pair in self._pairs(indices, flow) for number in pair}
        return sorted(wanted)

    def keep(self, indices: Sequence[int], flow: FlowSection | None) -> None:
        """Read frames once that `frames_at` is asked for next, and with `flow` those that `flow_at` needs as well."""
        numbers = self.needed(indices, flow)
        self._frames = self._read(numbers)
        self._kept = {number: place for place, number in enumerate(numbers)}

    def no_pictures(self) -> MediaError:
        """Return the error of a clip of sound alone."""
        return MediaError("not_video", self.path, "sound without pictures; a model of sound takes it")

    def close(self) -> None:  # noqa: B027  # shards stay open
        """Close what was opened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class FileSource(Source):
    """A file, opened once, or its part between two times.

    Args:
        path: for messages.
        media: the open file, which is closed with this source.
        start_s: NaN from the first frame on; `end_s` likewise.
        end_s: NaN to the last one.
        stored_flow: see `Source`, and `flow_missing`.
        flow_missing: see above.
    """

    def __init__(
        self,
        path: str,
        media: Video | Sound,
        start_s: float = math.nan,
        end_s: float = math.nan,
        stored_flow: tuple[FlowTracks, int] | None = None,
        flow_missing: bool = False,
    ) -> None:
        self.media = media
        self.start_s, self._end_s = 0.0 if math.isnan(start_s) else start_s, end_s
        self.first, last = 0, media.num_frames
        if media.num_frames:
            self.first, last = span(start_s, end_s, media.num_frames, media.fps)
        super().__init__(path, last - self.first, media.fps, stored_flow, flow_missing)

    @property
    def has_audio(self) -> bool:
        """The file has a sound track."""
        return self.media.has_audio

    @property
    def duration_s(self) -> float:
        """Seconds of the clip, by the pictures where there are any."""
        end_s = self.media.duration_s if math.isnan(self._end_s) else min(self._end_s, self.media.duration_s)
        return max(0.0, end_s - self.start_s)

    @property
    def damaged(self) -> bool:  # type: ignore[override]
        """Holes or errors were met."""
        return self.media.damaged

    @property
    def video(self) -> Video:
        """The open file, when it has pictures.

        Raises:
            MediaError: it has none (not_video).
        """
        if isinstance(self.media, Sound):
            raise self.no_pictures()
        return self.media

    def _read(self, indices: Sequence[int]) -> Tensor:
        return self.video.frames_at([self.first + index for index in indices])

    def waveform(self, rate_hz: int) -> Tensor | None:
        """Return the sound of the clip; a track that cannot be read is none where there are pictures; see `Source`."""
        if not self.media.has_audio:
            return None
        try:
            samples = self.media.audio(rate_hz)
        except MediaError as error:
            if error.reason == "timeout" or not self.num_frames:
                raise
            return None  # as `data pack` does: the pictures are good
        last = len(samples) if math.isnan(self._end_s) else round(self._end_s * rate_hz)
        return samples[round(self.start_s * rate_hz) : last]

    def close(self) -> None:
        """Close the file."""
        self.media.close()


class PackedSource(Source):
    """A clip of packed shards.

    Args:
        videos: the pack.
        row: of its manifest.
        stored_flow: see `Source`, and `flow_missing`.
        flow_missing: see above.
    """

    def __init__(
        self,
        videos: PackedVideos,
        row: int,
        stored_flow: tuple[FlowTracks, int] | None = None,
        flow_missing: bool = False,
    ) -> None:
        self.videos, self.row = videos, row
        path = videos.manifest.paths[row]
        super().__init__(path, videos.num_frames(row), videos.fps(row), stored_flow, flow_missing)

    @property
    def has_audio(self) -> bool:
        """Sound is stored."""
        return self.videos.num_samples(self.row) > 0

    @property
    def duration_s(self) -> float:
        """Seconds of the clip as it was packed."""
        return float(self.videos.info(self.row)["duration_s"])

    def _read(self, indices: Sequence[int]) -> Tensor:
        need_pictures(self)
        return self.videos.frames(self.row, indices)

    def waveform(self, rate_hz: int) -> Tensor | None:
        """Return the stored sound at a rate, which is at most the stored one (`check_input`); see `Source`."""
        samples = self.videos.audio(self.row)
        stored_hz = self.videos.settings["audio_rate_hz"]
        if samples is None or stored_hz == rate_hz:
            return samples
        return torch.from_numpy(resample(samples.numpy(), stored_hz, rate_hz)).clamp_(-1, 1)


def need_pictures(source: Source) -> None:
    """Raise MediaError `not_video` for a clip of sound alone."""
    if not source.num_frames:
        raise source.no_pictures()


def span(start_s: float, end_s: float, num_frames: int, fps: float) -> tuple[int, int]:
    """Return the first frame of a part of a video and the one behind its last; NaN is an open end."""
    first = 0 if math.isnan(start_s) else min(round(start_s * fps), num_frames - 1)
    last = num_frames if math.isnan(end_s) else min(round(end_s * fps), num_frames)
    return first, max(first + 1, last)
