"""`open_video`: frames by index and by time, and sound on the same clock, from one file or from bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType

import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from reeltag.errors import MediaReason
from reeltag.media.audio import Placement, read_sound
from reeltag.media.container import (
    Deadline,
    MediaInfo,
    describe,
    heard,
    open_container,
    video_stream,
)
from reeltag.media.decode import TrackDecoder
from reeltag.media.gate import Admitted, MediaSource, admit
from reeltag.media.index import NO_PTS, read_table
from reeltag.media.limits import DEFAULT_LIMITS, Limits
from reeltag.media.picture import Painter, resized

Pictures = dict[int, NDArray[np.uint8]]  # frame number -> (H, W, 3)


class Video:
    """An open video. Use it in a `with` statement, or call `close`. Not for several threads at once.

    Time 0 is the first shown frame, whatever the file's own clock says there.

    Attributes:
        info: what the header says.
        times_s: (num_frames,) when each frame is shown, ascending, the first 0.
        num_frames: frames that are shown: edit lists are followed, undecodable frames are not counted.
        duration_s: from the first frame's start to the last one's end, by the frames themselves.
        fps: `num_frames / duration_s`, the mean for a variable rate.
        has_audio: a sound track is there.
        damaged: holes or errors were met; the frames that are given are right nevertheless.
    """

    def __init__(self, admitted: Admitted, limits: Limits) -> None:
        self._admitted, self._limits = admitted, limits
        deadline = Deadline(admitted, limits)
        with heard() as messages:
            container = open_container(admitted, limits)
        try:
            self.info: MediaInfo = describe(container)
            stream = video_stream(container)
            if stream is None and admitted.cut and not self.info.has_audio:
                raise admitted.error("truncated", "the file ends inside its header; download or copy it again")
            if stream is None:
                raise admitted.error("not_video", "no pictures (a cover is none); read_audio reads its sound")
            self._check_size(any("max pixel" in text for _, _, text in messages))
            self.has_audio = self.info.has_audio
            self._time_base = float(stream.time_base or 0)
            table = self._table = read_table(admitted, container, stream, limits, deadline)
            self.damaged = table.damaged
            self._decoder = TrackDecoder(admitted, container, stream, table, limits)
        except BaseException:
            container.close()
            raise
        self._painter = Painter()
        self._size: tuple[int, int] | None = None
        self._ordinals: list[int] | None = None  # of good frames, when every frame must be decoded from the start
        self._rows = table.order
        times = table.pts[table.order].astype(np.float64) * self._time_base
        ends = table.durations[table.order] * self._time_base
        if not table.exact:
            times, ends = self._count_by_decoding(deadline)
        if not len(times):
            reason: MediaReason = "truncated" if admitted.cut else "corrupt"
            raise admitted.error(reason, "no frame can be decoded; replace the file")
        self.num_frames = len(times)
        self._origin_s = float(times[0])
        self.times_s: NDArray[np.float64] = times - self._origin_s
        self.duration_s = float(self.times_s[-1]) + self._last_frame_s(ends)
        self.fps = self.num_frames / self.duration_s

    def _pts_of(self, row: int) -> int:
        return int(self._table.pts[row]) if row < len(self._table) else NO_PTS

    def _check_size(self, over_limit: bool) -> None:
        pixels = self.info.width * self.info.height
        if pixels > self._limits.max_pixels or (not pixels and over_limit):
            found = f"{self.info.width} x {self.info.height} = {pixels} pixels" if pixels else "a frame"
            raise self._admitted.error("too_large", f"{found}, at most {self._limits.max_pixels} (Limits.max_pixels)")

    def _last_frame_s(self, durations: NDArray[np.floating]) -> float:
        """Return how long the last frame is shown: as the file says, else as long as the usual frame."""
        usual = float(np.median(np.diff(self.times_s))) if self.num_frames > 1 else 0.0
        stated = float(durations[-1])
        if stated > 0 and (not usual or stated <= 10 * usual):
            return stated
        return usual or 1 / (self.info.fps or 25.0)

    def _count_by_decoding(self, deadline: Deadline) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find the shown frames by decoding all; return their times and durations in seconds."""
        table = self._table
        rows: list[int | None] = []
        pts: list[int] = []
        good: list[bool] = []

        def visit(row: int | None, frame: VideoFrame, is_good: bool) -> bool:
            rows.append(row)
            pts.append(NO_PTS if row is None else self._pts_of(row))
            good.append(is_good)
            deadline.check()
            return False

        self._decoder.forward(visit, deadline)
        self.damaged |= not all(good)
        kept = [ordinal for ordinal, is_good in enumerate(good) if is_good]
        known_rows = [row for row in rows if row is not None]
        one_to_one = len(set(known_rows)) == len(rows) == int(table.shown.sum())
        if one_to_one and not self.damaged and not table.from_start:
            self._rows = known_rows
            self._decoder.order_by(known_rows)
        else:
            self._ordinals = kept
        times = np.array([pts[ordinal] for ordinal in kept], dtype=np.float64) * self._time_base
        durations = np.zeros(len(kept))
        if any(pts[ordinal] == NO_PTS for ordinal in kept) or (np.diff(times) <= 0).any():
            times = np.array(kept, dtype=np.float64) / (self.info.fps or 25.0)  # a file without usable times
        return times, durations

    # ------------------------------------------------------------------ size

    @property
    def width(self) -> int:
        """Pixels of a frame as `frames_at` gives it: after rotation."""
        return self._reference_size()[0]

    @property
    def height(self) -> int:
        """Likewise."""
        return self._reference_size()[1]

    def _reference_size(self) -> tuple[int, int]:
        if self._size is None:
            picture = next(iter(self._pictures([0]).values()))
            self._size = (picture.shape[1], picture.shape[0])
        return self._size

    # ------------------------------------------------------------------ frames

    def frames_at(self, indices: Sequence[int] | NDArray[np.integer] | Tensor) -> Tensor:
        """Return the frames with the given numbers, exactly these, in the order asked.

        Args:
            indices: numbers in [0, num_frames), in any order, repeats allowed (each is decoded once).

        Returns:
            uint8 (T, 3, H, W), RGB, in channels_last memory (which uint8 resizing is fastest on). Frames of another
            size than the first are scaled to it.

        Raises:
            ValueError: no index, or one out of range.
            MediaError: corrupt (a wanted frame cannot be decoded), too_large, timeout.
        """
        wanted = [int(index) for index in indices]
        if not wanted:
            raise ValueError("indices is empty; give at least one frame number")
        outside = [index for index in wanted if not 0 <= index < self.num_frames]
        if outside:
            raise ValueError(f"frame {outside[0]} does not exist; allowed: 0 to {self.num_frames - 1}")
        pictures = self._pictures(wanted)
        sizes = {picture.shape[:2] for picture in pictures.values()}
        if self._size is None and sizes == {self._expected_size(pictures)}:
            height, width = sizes.pop()
        else:
            width, height = self._reference_size()
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        for place, index in enumerate(wanted):
            picture = pictures[index]
            out[place] = picture if picture.shape[:2] == (height, width) else resized(picture, width, height)
        return torch.from_numpy(out).permute(0, 3, 1, 2)  # (T, 3, H, W)

    def _expected_size(self, pictures: Pictures) -> tuple[int, int]:
        """Return the header's (height, width), turned if the pictures are."""
        any_shape = next(iter(pictures.values())).shape
        size = (self.info.height, self.info.width)
        return size if any_shape[:2] == size else size[::-1]

    def frames_at_s(self, times_s: Sequence[float] | NDArray[np.floating] | Tensor) -> Tensor:
        """Return the frames that are on the screen at the given times, in the order asked.

        Args:
            times_s: seconds in [0, duration_s]; 0 is the first frame.

        Returns:
            uint8 (T, 3, H, W), as `frames_at`.

        Raises:
            ValueError: no time, or one out of range.
            MediaError: as `frames_at`.
        """
        times = np.asarray(times_s, dtype=np.float64)
        outside = times[~((times >= 0) & (times <= self.duration_s + self._time_base))]
        if outside.size:
            raise ValueError(f"nothing is shown at {outside[0]} s; allowed: 0 to {self.duration_s:.6g} s")
        # Half a tick, so that a time computed as index / fps finds its frame in spite of rounding.
        tick_s = self._time_base / 2 if self._time_base < 0.01 else 1e-6
        return self.frames_at(np.searchsorted(self.times_s, times + tick_s, side="right") - 1)

    def walk(self, indices: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield frames one by one while the track is decoded once, from its start: no memory of what has been given.

        Args:
            indices: numbers in [0, num_frames); each is given once, in ascending order.

        Yields:
            The number, and the frame uint8 (3, H, W) as `frames_at` gives it. A frame that turns out to be damaged is
            left out, and `damaged` is set. `Limits.timeout_s` holds from one frame to the next.

        Raises:
            ValueError: a number out of range.
            MediaError: nothing can be trusted (corrupt, at the end), too_large, timeout.
        """
        left = set(map(int, indices))
        if outside := sorted(index for index in left if not 0 <= index < self.num_frames):
            raise ValueError(f"frame {outside[0]} does not exist; allowed: 0 to {self.num_frames - 1}")
        counted = self._ordinals is not None
        place = {at: index for index, at in enumerate(self._ordinals if self._ordinals is not None else self._rows)}
        deadline = Deadline(self._admitted, self._limits)
        with closing(self._decoder.shown(deadline)) as shown:
            for ordinal, (row, frame, good) in enumerate(shown):
                index = place.get(ordinal if counted else -1 if row is None else row)
                if index is None:
                    continue
                if not good:
                    self.damaged = True
                    left.discard(index)
                    continue
                if index not in left and self._size is not None:
                    continue
                picture = self._painter.rgb(frame)
                if self._size is None:
                    self._size = (picture.shape[1], picture.shape[0])
                if index in left:
                    left.remove(index)
                    whole = picture.copy() if picture.shape[1::-1] == self._size else resized(picture, *self._size)
                    yield index, torch.from_numpy(whole).permute(2, 0, 1)  # (3, H, W)
                    deadline.renew()
                if not left:
                    return

    def _pictures(self, wanted: Sequence[int]) -> Pictures:
        """Return the upright pictures by frame number, each at its own size."""
        deadline = Deadline(self._admitted, self._limits)
        pictures: Pictures = {}
        if self._ordinals is not None:
            return self._from_start({self._ordinals[index]: index for index in wanted}, deadline)
        index_of = {self._rows[index]: index for index in wanted}

        def take(row: int, frame: VideoFrame) -> None:
            pictures[index_of[row]] = self._painter.rgb(frame)

        if self._decoder.sparse(list(index_of), take, deadline):
            return pictures
        return self._carefully(index_of, deadline)

    def _from_start(self, wanted: dict[int, int], deadline: Deadline) -> Pictures:
        """Return pictures by frame number, for ordinals of decoding from the start."""
        pictures: Pictures = {}
        seen = -1

        def visit(_: int | None, frame: VideoFrame, good: bool) -> bool:
            nonlocal seen
            seen += 1
            if good and seen in wanted:
                pictures[wanted[seen]] = self._painter.rgb(frame)
            return len(pictures) == len(wanted)

        self._decoder.forward(visit, deadline)
        return self._all_or_corrupt(pictures, wanted)

    def _carefully(self, wanted: dict[int, int], deadline: Deadline) -> Pictures:
        """Return pictures by frame number, for rows, after decoding them alone met an error."""
        pictures: Pictures = {}
        shown: list[int] = []
        place = {row: index for index, row in enumerate(self._rows)}

        def visit(row: int | None, frame: VideoFrame, good: bool) -> bool:
            self.damaged |= not good
            shown.extend([place[row]] if row in place else [])
            if good and row in wanted:
                pictures[wanted[row]] = self._painter.rgb(frame)
            return False  # to the end, because how much is damaged decides whether anything can be trusted

        self._decoder.forward(visit, deadline)
        if shown != sorted(shown):
            self.damaged = True
            raise self._admitted.error(
                "corrupt", "its time stamps contradict the order of its pictures; remux the file"
            )
        return self._all_or_corrupt(pictures, wanted)

    def _all_or_corrupt(self, pictures: Pictures, wanted: dict[int, int]) -> Pictures:
        missing = sorted(set(wanted.values()) - set(pictures))
        if missing:
            self.damaged = True
            raise self._admitted.error(
                "corrupt", f"frame {missing[0]} of {self.num_frames} cannot be decoded ({len(missing)} of those asked)"
            )
        return pictures

    # ------------------------------------------------------------------ sound

    def audio(self, rate_hz: int = 16000) -> Tensor:
        """Return the sound under the pictures, as one channel.

        The mean of all channels: a sound that is equal in all keeps its level (gain 1), one that is in a single channel
        of C gets the gain 1 / C, and nothing can exceed full scale.

        Args:
            rate_hz: samples per second.

        Returns:
            float32 (N,), N = round(duration_s * rate_hz), in [-1, 1]. Sample 0 is at the first frame: sound that starts
            later is preceded by zeros, earlier sound is cut; so are the ends.

        Raises:
            ValueError: `rate_hz` is not above 0.
            MediaError: unsupported (no sound track: ask `has_audio`), encrypted, timeout.
        """
        num_samples = round(self.duration_s * rate_hz)
        return read_sound(self._admitted, self._limits, rate_hz, Placement(self._origin_s, num_samples))

    # ------------------------------------------------------------------ closing

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()
        self._admitted.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def open_video(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> Video:
    """Open a video; the one way in for pictures.

    Args:
        source: a path, the bytes of a file, or an object with `read` (a member of a shard).
        limits: see `Limits`.

    Returns:
        A `Video`, to be used in a `with` statement. The picture track is the largest that is no cover picture (equal
        sizes: the default one, then the first); the sound track the default one, else the first.

    Raises:
        MediaError: the file cannot be read; `reason` says why.
    """
    admitted = admit(source, limits)
    try:
        return Video(admitted, limits)
    except BaseException:
        admitted.close()
        raise


def read_audio(source: MediaSource, rate_hz: int = 16000, *, limits: Limits = DEFAULT_LIMITS) -> Tensor:
    """Return the sound of any media file as one channel.

    Args:
        source: a path, the bytes of a file, or an object with `read`.
        rate_hz: samples per second.
        limits: see `Limits`.

    Returns:
        float32 (N,) in [-1, 1]. A file with pictures gives what `Video.audio` gives; one without gives all its sound,
        from the first sample on. The gain of the down-mix is that of `Video.audio`.

    Raises:
        ValueError: `rate_hz` is not above 0.
        MediaError: the file cannot be read, or has no sound (unsupported).
    """
    admitted = admit(source, limits)
    try:
        with open_container(admitted, limits) as container:
            has_video = video_stream(container) is not None
        if has_video:
            with Video(admitted, limits) as video:
                return video.audio(rate_hz)
        return read_sound(admitted, limits, rate_hz, None)
    finally:
        admitted.close()
