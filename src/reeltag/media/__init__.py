"""The one door for media files: decoding, encoding, sampling, transforms and flow."""

from reeltag.media.container import MediaInfo, probe
from reeltag.media.limits import Limits
from reeltag.media.video import Video, open_video, read_audio

__all__ = ["Limits", "MediaInfo", "Video", "open_video", "probe", "read_audio"]
