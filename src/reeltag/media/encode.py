"""Encoding: pictures and sound to one file (H.264 + AAC), with the same bytes for the same input on one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

# One thread, because x264's threads change the bytes. No scene cut: the caller places the key frames. Quality that is
# the same in every frame (no macroblock tree, flat I/P/B quantisers, qcomp 1), because a rate control that looks ahead
# or back would make early and late frames of a clip different: a still would tell the time.
X264_FLAT = "threads=1:lookahead-threads=1:scenecut=0:mbtree=0:qcomp=1:ipratio=1:pbratio=1"


def write_video(
    path: Path | str,
    frames: NDArray[np.uint8],
    fps: int | Fraction,
    *,
    audio: NDArray[np.float32] | None = None,
    rate_hz: int = 16_000,
    crf: int = 26,
    preset: str = "veryfast",
    keyframes: Sequence[int] = (0,),
    audio_bit_rate: int = 48_000,
    codec_options: Mapping[str, str] | None = None,
) -> None:
    """Write frames, and a sound track if there is one, as H.264 (yuv420p) and AAC (mono) into a file.

    The container follows the suffix of `path` (`.mp4`, `.mkv`, `.mov`). One encoder thread and bit-exact flags: the
    same input gives the same bytes on one machine and build.

    Args:
        path: the file to write; an existing file is replaced.
        frames: (T, H, W, 3) RGB, T >= 1, H and W even.
        fps: frames per second, > 0.
        audio: (N,) mono in [-1, 1], or None for a file without a sound track; values outside are clipped.
        rate_hz: samples per second of `audio`.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's speed, `ultrafast` to `veryslow`.
        keyframes: indices in [0, T) where a decoder can start; frame 0 always is one.
        audio_bit_rate: bits per second of the AAC track.
        codec_options: further options of libx264 by their FFmpeg name; they win over the ones above.

    Raises:
        ValueError: a shape, type or index that cannot be encoded.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, got {frames.dtype} {frames.shape}")
    num_frames, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in yuv420p needs even sides, got {width}x{height}; crop or pad by one pixel")
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if audio is not None and (audio.ndim != 1 or not len(audio)):
        raise ValueError(f"audio must be mono (N,) with N >= 1, got {audio.shape}; pass None for no sound track")
    outside = [index for index in keyframes if not 0 <= index < num_frames]
    if outside:
        raise ValueError(f"key frames must be in [0, {num_frames}), got {outside}")

    options = {"crf": str(crf), "preset": preset, "sc_threshold": "0", "g": str(num_frames), "forced-idr": "1"}
    options |= {"x264-params": X264_FLAT} | dict(codec_options or {})
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        sound = None
        if audio is not None:
            # The default search of the AAC encoder takes three times as long and is not heard at this rate.
            sound = container.add_stream("aac", rate=rate_hz, layout="mono", options={"aac_coder": "fast"})
            sound.bit_rate = audio_bit_rate
            sound.codec_context.thread_count = 1
            sound.codec_context.flags |= av.codec.context.Flags.bitexact
        starts = {0, *keyframes}
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = index
            frame.pict_type = av.video.frame.PictureType.I if index in starts else av.video.frame.PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and audio is not None:
            write_sound(container, sound, audio, rate_hz)


def write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, audio: NDArray[np.float32], rate_hz: int
) -> None:
    """Encode a mono wave (N,) into a stream of an open container, from time 0 on, clipped to [-1, 1]."""
    samples = np.clip(audio, -1, 1).astype(np.float32)
    step = stream.codec_context.frame_size or 1024  # known only once the encoder is open
    for start in range(0, len(samples), step):
        piece = np.ascontiguousarray(samples[None, start : start + step])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
