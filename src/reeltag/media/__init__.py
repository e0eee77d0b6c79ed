"""The one door for media files: decoding, encoding, sampling, transforms and flow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reeltag.media.container import MediaInfo, probe
    from reeltag.media.limits import Limits
    from reeltag.media.sound_file import Sound, open_media
    from reeltag.media.video import Video, open_video, read_audio

__all__ = ["Limits", "MediaInfo", "Sound", "Video", "open_media", "open_video", "probe", "read_audio"]
_HOMES = {
    "Limits": "limits",
    "MediaInfo": "container",
    "Sound": "sound_file",
    "open_media": "sound_file",
    "probe": "container",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use: a worker that only encodes need not load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'reeltag.media' has no attribute {name!r}")
    return getattr(import_module(f"reeltag.media.{_HOMES.get(name, 'video')}"), name)
