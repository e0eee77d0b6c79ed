"""The table of a picture track's packets, made by reading the file once without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.container.input import InputContainer
from av.error import FFmpegError
from numpy.typing import NDArray

from reeltag.media.bitstream import PacketReader, VideoPacket
from reeltag.media.container import Deadline, complaints, heard, reason_of
from reeltag.media.gate import Admitted
from reeltag.media.limits import Limits

NO_PTS = -(1 << 63)

# Formats whose packets are whole pictures with a presentation time each. AVI has no such times, which is harmless where
# the codec shows pictures in the order of the file. In the others (MPEG-TS, MPEG-PS, Ogg, ASF, raw streams) packets and
# times come from a parser and are not always one to a picture: there the shown pictures are counted by decoding once.
_EXACT_FORMATS = {"mov", "matroska", "flv", "gif", "apng", "yuv4mpegpipe", "ivf"}
# Their decoders turn damaged data into wrong pictures without a word; in a damaged file none of them can be trusted.
_SILENT_CODECS = {"vp8", "vp9", "av1", "libdav1d"}
_MAX_REORDER = 16  # pictures, in any codec


@dataclass
class PacketTable:
    """One row per packet, in the order of the file.

    Attributes:
        pts: presentation times in units of the time base; `NO_PTS` where the file has none.
        dts: decoding times, likewise.
        durations: likewise; 0 where the file has none.
        positions: bytes from the start of the file, -1 where unknown; with pts it identifies a packet.
        key: the file or the parser calls it a key packet.
        clean: decoding may start here, see `PacketReader.starts_clean`.
        droppable: no other picture refers to this one.
        shown: the packet yields a picture to show (edit lists and hidden reference pictures are left out).
        broken: the packet is damaged, or some before it are missing.
        exact: one packet is one picture, and presentation times order them.
        damaged: holes, damaged packets or errors were met, or the file is cut.
        from_start: pictures are only exact when the track is decoded from its start, every packet of it.
        cached: the packets themselves, when they fit the limit.
        reorder_depth: how many pictures must be held back to show them in order.
        order: rows of the shown pictures by presentation time; means something where `exact`.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    durations: NDArray[np.int64]
    positions: NDArray[np.int64]
    key: NDArray[np.bool_]
    clean: NDArray[np.bool_]
    droppable: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    damaged: bool
    from_start: bool
    cached: list[VideoPacket] | None
    exact: bool = False
    reorder_depth: int = 0
    order: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pts)


def demux(container: InputContainer, stream: av.VideoStream, deadline: Deadline) -> Iterator[VideoPacket]:
    """Yield the packets of one stream until the file ends; other streams are skipped unread where the format can."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    for packet in container.demux(stream):
        deadline.check()
        if packet.size == 0 and packet.dts is None:
            return  # the sign to flush the decoder
        yield packet


_Row = tuple[int, int, int, int, bool, bool, int, bool, bool, bool]


def _row(packet: VideoPacket, reader: PacketReader) -> _Row:
    """Return pts, dts, duration, position, key, clean, layer, used, shown and broken of a packet."""
    time = packet.pts if packet.pts is not None else packet.dts
    layer, used = reader.layer_and_use(packet)
    return (
        NO_PTS if time is None else time,
        NO_PTS if packet.dts is None else packet.dts,
        packet.duration or 0,
        -1 if packet.pos is None else packet.pos,
        packet.is_keyframe,
        reader.starts_clean(packet),
        layer,
        used,
        not packet.is_discard and reader.is_shown(packet),
        packet.is_corrupt,
    )


def read_table(
    admitted: Admitted, container: InputContainer, stream: av.VideoStream, limits: Limits, deadline: Deadline
) -> PacketTable:
    """Read all packets of a stream and return their table.

    Raises:
        MediaError: encrypted, timeout, unsafe_reference, too_long by the presentation times, or corrupt where the codec
            does not notice damage.
    """
    reader = PacketReader(stream.codec_context.name, stream.codec_context.extradata)
    rows: list[_Row] = []
    cached: list[VideoPacket] | None = []
    total, new_header, failed, empty = 0, False, False, False
    with heard() as messages:
        try:
            for packet in demux(container, stream, deadline):
                if packet.is_keyframe:
                    if packet.has_sidedata("encryption_info"):
                        raise admitted.error("encrypted", "the packets are encrypted; give a file without protection")
                    new_header |= bool(rows) and packet.has_sidedata("new_extradata")
                rows.append(_row(packet, reader))
                empty |= packet.size == 0  # AVI's sign for "show the last picture again"
                total += packet.size
                if cached is not None:
                    cached.append(packet)
                    cached = cached if total <= limits.cache_bytes else None
        except (FFmpegError, OSError, MemoryError) as error:
            if isinstance(error, PermissionError):
                raise reason_of(admitted, error, messages) from None
            failed = True  # what was read before the damage is kept
    damage = complaints(messages)
    if reader.codec in _SILENT_CODECS and any("ended prematurely" not in text for text in damage):
        raise admitted.error("corrupt", f"{damage[0]}; {reader.codec} does not notice damaged pictures")
    table = _table(rows, failed or admitted.cut or bool(damage), reader.carries_over, cached)
    if new_header:  # a header that changes on the way is only met when decoding runs through it
        table.clean[1:] = False
    _judge(table, admitted, container, stream, limits)
    table.exact &= not empty and not table.from_start
    return table


def _table(rows: list[_Row], damaged: bool, from_start: bool, cached: list[VideoPacket] | None) -> PacketTable:
    columns = zip(*rows, strict=True) if rows else [()] * 10
    types = (np.int64, np.int64, np.int64, np.int64, bool, bool, np.int64, bool, bool, bool)
    pts, dts, durations, positions, key, clean, layers, used, shown, broken = (
        np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)
    )
    return PacketTable(
        pts=pts,
        dts=dts,
        durations=durations,
        positions=positions,
        key=key,
        clean=clean,
        droppable=~used & (layers == layers.max(initial=0)),
        shown=shown,
        broken=broken,
        damaged=damaged,
        from_start=from_start,
        cached=cached,
    )


def _judge(
    table: PacketTable, admitted: Admitted, container: InputContainer, stream: av.VideoStream, limits: Limits
) -> None:
    """Fill in what follows from the rows (damage, order, exactness) and check the duration."""
    known = table.pts != NO_PTS
    shown_times = table.pts[known & table.shown]
    if shown_times.size and stream.time_base is not None:
        length_s = float(int(shown_times.max() - shown_times.min()) * stream.time_base)
        if length_s > limits.max_duration_s:
            allowed = f"at most {limits.max_duration_s:.0f} (Limits.max_duration_s)"
            raise admitted.error("too_long", f"its frames span {length_s:.0f} s, {allowed}")
    names = set(container.format.name.split(","))
    in_order = "avi" in names and not stream.codec_context.has_b_frames
    table.damaged |= bool(table.broken.any())
    if len(table):
        table.damaged |= not table.key[0]  # what comes before the first key picture cannot be decoded
        later = np.zeros(len(table), dtype=np.int64)
        for back in range(1, min(_MAX_REORDER + 1, len(table))):
            later[back:] += table.pts[:-back] > table.pts[back:]
        table.reorder_depth = int(later.max())
    if table.damaged:
        if "mpegts" in names:  # its flag also falls on whole packets beside a joint; the decoder tells better
            table.broken[:] = False
        table.broken |= _after_gaps(table.pts)
    distinct = bool(known.all()) and len(np.unique(shown_times)) == len(shown_times)
    table.exact = distinct and not table.damaged and (bool(names & _EXACT_FORMATS) or in_order)
    rows = np.flatnonzero(table.shown)
    table.order = rows[np.argsort(table.pts[rows], kind="stable")].tolist()


def _after_gaps(pts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the first packet after each gap in time; asked of damaged files alone, where a gap is a loss."""
    marked = np.zeros(len(pts), dtype=bool)
    steps = np.diff(np.unique(pts))
    if not len(steps):
        return marked
    latest = np.maximum.accumulate(pts)
    filled_in_later = np.zeros(len(pts), dtype=np.int64)  # pictures shown between the latest so far and this one
    for ahead in range(1, min(_MAX_REORDER + 1, len(pts))):
        between = (pts[ahead:] < pts[:-ahead]) & (pts[ahead:] > np.concatenate(([NO_PTS], latest))[: len(pts) - ahead])
        filled_in_later[: len(pts) - ahead] += between
    marked[1:] = np.diff(latest) > (filled_in_later[1:] + 1.5) * np.median(steps)
    return marked
