"""A video with another sound track: its coded pictures are copied, not coded again."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from reeltag.media.encode import write_sound


def lay_sound(source: Path | str, path: Path | str, audio: NDArray[np.float32] | None, rate_hz: int = 16_000) -> None:
    """Write the pictures of a video with a sound track of its own in place of the one that it had.

    Picture packets travel unchanged, so every frame decodes to the pixels that it had in `source`. Sound begins with
    the first picture.

    Args:
        source: a video that is to be trusted: it is opened without the checks of `open_video`.
        path: the file to write (`.mp4`, `.mkv`, `.mov`); an existing file is replaced.
        audio: (N,) mono in [-1, 1]; None writes a video without a sound track.
        rate_hz: samples per second of `audio`.

    Raises:
        ValueError: audio that is no mono wave, or a source without pictures.
    """
    if audio is not None and (audio.ndim != 1 or not len(audio)):
        raise ValueError(f"audio must be mono (N,) with N >= 1, got {audio.shape}; pass None for no sound track")
    with av.open(str(source)) as given, av.open(str(path), "w", options={"fflags": "+bitexact"}) as written:
        if not given.streams.video:
            raise ValueError(f"{source} has no pictures")
        pictures = given.streams.video[0]
        copied = written.add_stream_from_template(pictures)
        sound = None
        if audio is not None:
            sound = written.add_stream("aac", rate=rate_hz, layout="mono", options={"aac_coder": "fast"})
            sound.bit_rate = 64_000
            sound.codec_context.thread_count = 1
            sound.codec_context.flags |= av.codec.context.Flags.bitexact
        for packet in given.demux(pictures):
            if packet.dts is None:  # the empty packet that ends the stream
                continue
            packet.stream = copied
            written.mux(packet)
        if sound is not None and audio is not None:
            write_sound(written, sound, audio, rate_hz)
