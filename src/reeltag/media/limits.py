"""The limits that a media file must keep before and while it is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one file may ask for; a file beyond a limit is refused before memory or time is spent on it.

    Attributes:
        max_bytes: size of the file; beyond it `too_large`.
        max_pixels: width times height of one frame; beyond it `too_large`. The default admits 8K video.
        max_streams: pictures, sound, subtitles and data together; beyond it `too_many_streams`.
        max_duration_s: from the first to the last shown frame by the time stamps of the frames, whatever the header
            says; beyond it `too_long`.
        timeout_s: wall-clock seconds that one call (open, frames, sound) may take; beyond it `timeout`.
        cache_bytes: compressed packets kept in memory between calls; a larger file is read again from disk.
    """

    max_bytes: int = 16 << 30
    max_pixels: int = 8192 * 4320
    max_streams: int = 64
    max_duration_s: float = 24 * 3600.0
    timeout_s: float = 120.0
    cache_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0 and name != "cache_bytes":
                raise ValueError(f"{name} must be above 0, got {value}")


DEFAULT_LIMITS = Limits()
