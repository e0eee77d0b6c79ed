"""The errors that a user's input can cause; every message says the value, what is allowed and the next step."""

from __future__ import annotations

from typing import Literal, get_args

MediaReason = Literal[
    "not_found",
    "permission_denied",
    "not_a_file",
    "empty",
    "not_media",
    "not_video",
    "unsupported",
    "truncated",
    "corrupt",
    "header_lies",
    "too_large",
    "too_long",
    "too_many_streams",
    "encrypted",
    "unsafe_reference",
    "timeout",
    "crashed",
]
MEDIA_REASONS: tuple[str, ...] = get_args(MediaReason)


class ReeltagError(Exception):
    """Anything that a user can cause and cure. The command line prints it as one line and exits with 2."""


class UnknownName(ReeltagError, KeyError):
    """A name that no registry, vocabulary or list holds."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr


class RecipeError(ReeltagError):
    """A recipe that cannot be read, has an unknown key or a value that is not allowed."""


class ManifestError(ReeltagError):
    """A manifest or an annotation file that cannot be read or contradicts itself."""


class StoreError(ReeltagError):
    """A run folder, checkpoint, score file, shard or bundle that is missing, damaged or of another label set."""


class TooManyBadFiles(ReeltagError):
    """More unreadable media than the recipe's `max_bad` allows."""


class Diverged(ReeltagError):
    """Training whose loss is no longer a finite number."""


class LostProcess(ReeltagError):
    """A run of several processes of which another one ended or stopped answering."""


class MediaError(ReeltagError):
    """A media file that cannot be read, with the reason as a code.

    Attributes:
        reason: one of `MEDIA_REASONS`.
        path: the file, as the caller named it.
        detail: what was found and what is allowed, without the path.
    """

    def __init__(self, reason: MediaReason, path: str, detail: str) -> None:
        if reason not in MEDIA_REASONS:
            raise ValueError(f"{reason!r} is not a reason; the reasons are {', '.join(MEDIA_REASONS)}")
        super().__init__(f"{path}: {reason}: {detail}")
        self.reason: MediaReason = reason
        self.path = path
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        return type(self), (self.reason, self.path, self.detail)  # so that it crosses process borders
