"""Decoding of one picture track: wanted frames alone where that is exact, every frame from the start where not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import av
import numpy as np
from av.container.input import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame

from reeltag.media.bitstream import VideoPacket
from reeltag.media.container import Deadline, complaints, heard, open_container, reason_of, single_thread
from reeltag.media.gate import Admitted
from reeltag.media.index import NO_PTS, PacketTable, demux
from reeltag.media.limits import Limits

_SEEKABLE = {"mov", "matroska"}  # a seek lands on a packet that the table can recognise
_SEEK_PAYS_ROWS = 300
# Of 100 packets with a flipped bit H.264's decoder notices about a third; three noticed among few mean unnoticed ones.
_MANY_FAILURES, _MANY_FAILURES_SHARE = 3, 0.02


def prepare(stream: av.VideoStream, limits: Limits) -> av.VideoStream:
    """Set a stream up: one thread, and the pixel limit inside the decoder."""
    single_thread(stream)
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


class TrackDecoder:
    """Decodes rows of a packet table.

    Args:
        admitted: the file.
        container: it, open; used up to the first need to start again.
        stream: the picture track.
        table: its packets.
        limits: see `Limits`.
    """

    def __init__(
        self,
        admitted: Admitted,
        container: InputContainer,
        stream: av.VideoStream,
        table: PacketTable,
        limits: Limits,
    ) -> None:
        self._admitted, self._limits = admitted, limits
        self._container, self._stream_index = container, stream.index
        self._context = prepare(stream, limits).codec_context
        self._table = table
        self._clean_rows: list[int] = np.flatnonzero(table.clean).tolist()
        self._droppable: list[bool] = table.droppable.tolist()
        self._shown_at: list[int] = table.pts.tolist()  # whatever grows in the order of showing
        self._used = False
        self._feed: Iterator[tuple[int, VideoPacket]] | None = None
        self._feed_row = 0
        self._row_of: dict[tuple[int, int], int] | None = None

    def order_by(self, rows: Sequence[int]) -> None:
        """Take the order of showing from `rows` instead of from the presentation times."""
        self._shown_at = [-1] * len(self._table)
        for place, row in enumerate(rows):
            self._shown_at[row] = place

    def close(self) -> None:
        """Close the file's container."""
        self._feed = None
        self._container.close()

    # ------------------------------------------------------------------ wanted rows alone

    def sparse(self, rows: Sequence[int], take: Callable[[int, VideoFrame], None], deadline: Deadline) -> bool:
        """Decode the pictures of `rows`, calling `take(row, frame)` for each, in any order.

        Decoding starts at the last clean picture from which the wanted one can be reached, leaves out pictures that no
        other refers to, and stops at the wanted one.

        Returns:
            Whether all came, without any error on the way. If not, what was taken must be thrown away.
        """
        left = set(rows)
        last, in_order = NO_PTS - 1, True

        def deliver(frames: list[VideoFrame]) -> None:
            nonlocal last, in_order
            for frame in frames:
                row = frame.pts
                if row is None:
                    continue
                # The decoder's order is the pictures' own; what the file says must not contradict it.
                in_order &= self._shown_at[row] > last
                last = self._shown_at[row]
                if row in left and not frame.is_corrupt:
                    left.discard(row)
                    take(row, frame)

        with heard() as messages:
            try:
                for start, stop in self._runs(sorted(left)):
                    self._restart()
                    last = NO_PTS - 1
                    for row, packet in self._packets(start, stop):
                        deadline.check()
                        unneeded = self._droppable[row] and row not in left
                        if unneeded or (start and self._shown_at[row] < self._shown_at[start]):
                            continue  # the second: shown before the start, so it may refer to what was not decoded
                        packet.pts = row  # decoders hand it on to the frame
                        deliver(self._context.decode(packet))
                    deliver(self._context.decode(None))
            except (FFmpegError, OSError, MemoryError):
                return False
            return in_order and not left and not complaints(messages)

    def _runs(self, rows: list[int]) -> list[tuple[int, int]]:
        """Return half-open ranges of rows to feed, for wanted rows in ascending order."""
        runs: list[tuple[int, int]] = []
        for row in rows:
            at = bisect_right(self._clean_rows, row) - 1
            while at > 0 and self._shown_at[self._clean_rows[at]] > self._shown_at[row]:
                at -= 1  # shown before that key picture: it may refer to pictures before it
            start = self._clean_rows[at] if at > 0 else 0
            while runs and start <= runs[-1][1]:  # goes on from there, or needs what comes before it
                start = min(start, runs.pop()[0])
            runs.append((start, row + 1))
        return runs

    def _restart(self) -> None:
        if self._used:
            self._context.flush_buffers()
        if self._context.name == "h264":  # it may guess too low, and would then leave out pictures
            self._context.reorder_depth = max(self._context.reorder_depth, self._table.reorder_depth)
        self._used = True

    # ------------------------------------------------------------------ packets by row

    def _packets(self, start: int, stop: int) -> Iterator[tuple[int, VideoPacket]]:
        """Yield (row, packet) of [start, stop), from memory or from the file."""
        if self._table.cached is not None:
            yield from enumerate(self._table.cached[start:stop], start)
            return
        if self._feed is None or self._feed_row > start or start - self._feed_row > _SEEK_PAYS_ROWS:
            self._feed = self._seek(start) or self._from_first()
        for row, packet in self._feed:
            self._feed_row = row + 1
            if row >= start:
                yield row, packet
            if self._feed_row >= stop:
                return

    def _from_first(self) -> Iterator[tuple[int, VideoPacket]]:
        """Open the file again and number its packets."""
        self._container.close()
        self._container = open_container(self._admitted, self._limits)
        return enumerate(self._demux())

    def _demux(self) -> Iterator[VideoPacket]:
        # Time is kept by the caller, whose deadline is that of the current call.
        forever = Deadline(self._admitted, Limits(timeout_s=1e9))
        return demux(self._container, _stream_at(self._container, self._stream_index), forever)

    def _seek(self, start: int) -> Iterator[tuple[int, VideoPacket]] | None:
        """Move to a packet at or before row `start` that the table recognises; None where that cannot be done."""
        if not _SEEKABLE & set(self._container.format.name.split(",")) or self._table.dts[start] == NO_PTS:
            return None
        if self._row_of is None:
            keys = zip(self._table.pts.tolist(), self._table.positions.tolist(), strict=True)
            self._row_of = {key: row for row, key in enumerate(keys)}
        try:
            stream = _stream_at(self._container, self._stream_index)
            self._container.seek(int(self._table.dts[start]), stream=stream)
            packets = self._demux()
            first = next(packets)
        except (FFmpegError, StopIteration):
            return None
        pts, position = first.pts, first.pos
        row = self._row_of.get((NO_PTS if pts is None else pts, -1 if position is None else position))
        if row is None or row > start:
            return None

        def numbered() -> Iterator[tuple[int, VideoPacket]]:
            yield row, first
            yield from enumerate(packets, row + 1)

        return numbered()

    # ------------------------------------------------------------------ everything from the start

    def shown(self, deadline: Deadline) -> Generator[tuple[int | None, VideoFrame, bool]]:
        """Decode the whole track in order, and yield (row, frame, good) of each shown frame.

        A picture is not good when it or one before it back to the last key picture was damaged or missing, because it
        refers to them; and when it is shown before the key picture that ends such a stretch.

        Raises:
            MediaError: nothing could be opened, a frame beyond the pixel limit (too_large), or so much damage inside
                packets that unnoticed damage must be feared too (corrupt; only known when the end is reached).
        """
        with open_container(self._admitted, self._limits) as container:
            stream = prepare(_stream_at(container, self._stream_index), self._limits)
            context = stream.codec_context
            health = _Health(self._table)
            with heard() as messages:
                for row, packet in enumerate(_until_damage(demux(container, stream, deadline))):
                    messages.clear()
                    packet.pts = row
                    frames = self._decode(context, packet, messages)
                    health.note(row, frames is None or bool(complaints(messages)))
                    for frame in frames or ():
                        yield frame.pts, frame, health.is_good(frame)
                for frame in self._decode(context, None, messages) or ():
                    yield frame.pts, frame, health.is_good(frame)
            if health.is_hopeless():
                found = f"{health.failures} of {len(self._table)} packets are damaged"
                raise self._admitted.error("corrupt", f"{found}, so none can be trusted; replace the file")

    def forward(self, visit: Callable[[int | None, VideoFrame, bool], bool], deadline: Deadline) -> None:
        """Call `visit(row, frame, good)` per frame of `shown` until it returns True.

        Raises:
            MediaError: as `shown`.
        """
        with closing(self.shown(deadline)) as frames:
            for row, frame, good in frames:
                if visit(row, frame, good):
                    return

    def _decode(
        self, context: av.VideoCodecContext, packet: VideoPacket | None, messages: list[tuple[int, str, str]]
    ) -> list[VideoFrame] | None:
        """Return the frames that come out, or None for a damaged packet."""
        try:
            return context.decode(packet)
        except (FFmpegError, MemoryError) as error:
            if (known := reason_of(self._admitted, error, messages)).reason in ("too_large", "unsupported"):
                raise known from None
            return None


class _Health:
    """Which rows are good while a track is decoded from its start."""

    def __init__(self, table: PacketTable) -> None:
        self._table = table
        self._good: list[bool] = []
        self._broken = bool(table.key.any()) and not table.key[0]
        self._healed_pts = NO_PTS
        self.failures = 0

    def note(self, row: int, failed: bool) -> None:
        """Take in that the packet of `row` was fed, and whether an error came with it."""
        table = self._table
        if row >= len(table):  # the file grew since the table was made
            self._good.append(False)
            return
        if table.key[row] and self._broken:
            self._broken = False
            self._healed_pts = int(table.pts[row])
        beside_gap = row + 1 == len(table) or bool(table.broken[row : row + 2].any())
        self.failures += failed and not beside_gap
        self._broken |= failed or bool(table.broken[row])
        self._good.append(not self._broken and table.pts[row] >= self._healed_pts)

    def is_hopeless(self) -> bool:
        """Tell whether errors inside packets, away from holes, are so many that decoders must have missed others."""
        return self.failures >= _MANY_FAILURES and self.failures > _MANY_FAILURES_SHARE * len(self._table)

    def is_good(self, frame: VideoFrame) -> bool:
        """Tell whether a frame that came out can be trusted."""
        row = frame.pts
        return not frame.is_corrupt and (row is None or self._good[row])


def _until_damage(packets: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
    """Yield packets until the file can be read no further."""
    try:
        yield from packets
    except (FFmpegError, OSError, MemoryError):
        return


def _stream_at(container: InputContainer, index: int) -> av.VideoStream:
    """Return the picture track with an index among all streams."""
    return next(stream for stream in container.streams.video if stream.index == index)
