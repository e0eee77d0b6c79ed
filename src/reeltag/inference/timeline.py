"""Tags over time: a long file is decoded once, in one pass, and every window of it is tagged as a clip of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.sources import FileSource
from reeltag.errors import MediaError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.predict import Tagger
from reeltag.inference.segments import Segment, SegmentRule, find_segments
from reeltag.inference.sound_extractor import SoundExtractor
from reeltag.inference.windows import DEFAULT_WINDOW_S, Stretch, Windows, check_windows
from reeltag.media import Sound, Video, open_media
from reeltag.schema import Tags

WINDOWS_AT_ONCE = 8
Shrink = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The tags of a file and of each window of it.

    Attributes:
        tags: of the whole file, what the tagger says of it without a timeline.
        windows: where the W windows lie.
        scores: (W, L) probabilities in the order of `label_names`; NaN where a window has nothing of what the model
            takes, or could not be decoded.
        label_names: L, the order of the model.
        segments: where the mean score of the windows that cover a moment passes the thresholds, by their start.
    """

    tags: Tags
    windows: Windows
    scores: NDArray[np.float32]
    label_names: list[str]
    segments: list[Segment]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return the line of `reeltag tag --timeline --json`; `top` keeps the best labels of the file alone."""
        kept = set(self.tags.labels[:top])
        return {
            **self.tags.to_dict(top),
            "timeline": {
                "window_s": round(self.windows.window_s, 3),
                "hop_s": round(self.windows.hop_s, 3),
                "times_s": self.windows.times_s.round(3).tolist(),
                "segments": [segment.to_dict() for segment in self.segments if segment.label in kept],
            },
        }


def timeline(
    tagger: Tagger | EnsembleTagger,
    video: str | Path,
    *,
    window_s: float | None = None,
    hop_s: float | None = None,
    rule: SegmentRule | None = None,
) -> Timeline:
    """Tag a file as a whole and window by window, in one pass over it.

    A window gets the scores that its stretch of the file would get as a file of its own. The pass decodes every frame
    once at most and holds those of a few windows; the sound track is held whole, at the rate that the model hears.

    Args:
        tagger: a model or an ensemble, whose members look at the same windows.
        video: the file.
        window_s: length of a window; by default `natural_window_s`.
        hop_s: from one window to the next, in (0, window_s]; half a window by default.
        rule: how scores become segments.

    Raises:
        MediaError: the file cannot be read, or has nothing of what the model takes.
        ReeltagError: a window or hop that is not allowed.
    """
    if window_s is not None or hop_s is not None:  # before the file is opened; its window may be longer than the hop
        check_windows(window_s if window_s is not None else max(hop_s or 0.0, DEFAULT_WINDOW_S), hop_s)
    with open_media(video) as media:
        chosen_s = natural_window_s(tagger, media.fps) if window_s is None else window_s
        run = _Pass(tagger, media, str(video), chosen_s, hop_s)
        tags, scores = run.read()
    cells_s, means = run.windows.moments(scores)
    segments = find_segments(means, cells_s, tagger.label_names, tagger.thresholds, rule)
    return Timeline(tags, run.windows, scores, list(tagger.label_names), segments)


def natural_window_s(tagger: Tagger | EnsembleTagger, fps: float) -> float:
    """Return how many seconds a clip of the model spans: of an ensemble, the longest of its members.

    Frames at a stride span `num_frames` x `stride` of them at `data.fps`, or at the rate of the file; sound spans
    `data.audio.seconds`; vectors at a rate `num_frames` of them. Frames spread over a video of any length (`segments`,
    `uniform`) span none of their own, and take what the sound beside them spans, or 3 s.

    Args:
        tagger: see above.
        fps: of the file.
    """
    if isinstance(tagger, EnsembleTagger):
        return max(natural_window_s(member, fps) for member in tagger.taggers)
    data = tagger.loaded.trained.recipe.data
    if tagger.features is not None:
        amount = tagger.features.extractor.view.amount  # type: ignore[union-attr]  # both views have one
        per_second = getattr(amount, "fps", None)
        return data.num_frames / per_second if per_second else DEFAULT_WINDOW_S
    rate = data.fps or fps
    if tagger.modalities != ("audio",) and data.sampling == "dense" and rate:
        return data.num_frames * data.stride / rate
    return data.audio.seconds if "audio" in tagger.modalities else DEFAULT_WINDOW_S


class _Pass:
    """One pass over an open file.

    Attributes:
        windows: where they lie.
    """

    def __init__(
        self, tagger: Tagger | EnsembleTagger, media: Video | Sound, name: str, window_s: float, hop_s: float | None
    ) -> None:
        self._tagger, self._media, self._name = tagger, media, name
        self._members = tagger.taggers if isinstance(tagger, EnsembleTagger) else [tagger]
        waves = {rate: _wave(media, rate) for rate in sorted(set(map(_rate_hz, self._members)) - {0})}
        duration_s = media.duration_s
        if not media.num_frames:  # what a header says of a sound file may be wrong
            duration_s = max((len(wave) / rate for rate, wave in waves.items() if wave is not None), default=0.0)
        self.windows = Windows.over(duration_s, window_s, hop_s)
        self._stretches = [Stretch(media, start, end, waves) for start, end in self.windows.times_s.tolist()]
        self._whole = Stretch(media, 0.0, duration_s, waves)
        self._shrink = _common_shrink(self._members)
        self._said: list[list[Tensor]] = [[] for _ in self._members]  # a score (L,) a window, or nothing (0,)

    def read(self) -> tuple[Tags, NDArray[np.float32]]:
        """Return the tags of the file and the (W, L) scores of its windows."""
        needed = [self._needed(stretch) for stretch in self._stretches]
        whole = self._needed(self._whole)
        starts = [min(numbers, default=self._media.num_frames) for numbers in needed]
        still = np.minimum.accumulate(starts[::-1])[::-1].tolist()  # no later window needs a frame before this one
        kept: dict[int, Tensor] = {}
        held: dict[int, Tensor] = {}  # for the whole file
        waiting: list[Stretch] = []
        done = 0
        for number, frame in self._frames(whole.union(*needed)):
            kept[number] = frame
            if number in whole:
                held[number] = frame
            while done < len(needed) and max(needed[done], default=-1) <= number:
                self._stretches[done].frames = {at: kept[at] for at in needed[done] if at in kept}
                waiting.append(self._stretches[done])
                done += 1
                if len(waiting) == WINDOWS_AT_ONCE:
                    self._score(waiting)
                    waiting = []
            first = still[done] if done < len(needed) else self._media.num_frames
            kept = {at: kept[at] for at in kept if at >= first}
        for left in range(done, len(needed)):  # of sound alone, or at whose end frames were damaged
            self._stretches[left].frames = {at: kept[at] for at in needed[left] if at in kept}
            waiting.append(self._stretches[left])
        for first in range(0, len(waiting), WINDOWS_AT_ONCE):
            self._score(waiting[first : first + WINDOWS_AT_ONCE])
        self._whole.frames = held
        return self._tags(), self._fused()

    def _frames(self, numbers: set[int]) -> Iterator[tuple[int, Tensor]]:
        if isinstance(self._media, Video) and numbers:
            for number, frame in self._media.walk(numbers):
                yield number, self._shrink(frame[None])[0]

    def _needed(self, stretch: Stretch) -> set[int]:
        """Return the numbers of the frames that any member looks at."""
        indices = {index for member in self._members for index in _indices(member, stretch)}
        return set(stretch.numbers(sorted(indices)))

    def _score(self, stretches: Sequence[Stretch]) -> None:
        for place, member in enumerate(self._members):
            batches = [_batch(member, stretch, self._name) for stretch in stretches]
            there = [batch for batch in batches if batch is not None]
            # Vectors of windows differ in number; those models are small.
            groups = [[batch] for batch in there] if member.features is not None else [there] if there else []
            scores = iter([row for group in groups for row in member.scores_of(_joined(group))])
            self._said[place] += [torch.empty(0) if batch is None else next(scores) for batch in batches]
        for stretch in stretches:
            stretch.frames = {}

    def _fused(self) -> NDArray[np.float32]:
        """Return (W, L), NaN where no member could say anything."""
        covered = np.array([[len(row) > 0 for row in rows] for rows in self._said], dtype=bool)  # (M, W)
        blank = torch.full((len(self._tagger.label_names),), 0.5)
        values = [torch.stack([row if len(row) else blank for row in rows]).numpy() for rows in self._said]
        fused = self._tagger.fuse(values, covered) if isinstance(self._tagger, EnsembleTagger) else values[0]
        return np.where(np.any(covered, axis=0)[:, None], fused, np.nan).astype(np.float32)

    def _tags(self) -> Tags:
        """Return the tags of the whole file, by the frames that the pass has kept."""
        opened = cast(Video, self._whole)  # it reads like one
        if isinstance(self._tagger, Tagger):
            tags = _of_kept(self._tagger, opened, self._name)
        else:
            members = [cast(Tagger, _Member(tagger, opened)) for tagger in self._tagger.taggers]
            tags = EnsembleTagger(self._tagger.ensemble, members)(self._name)
        return replace(tags, duration_s=self._media.duration_s, damaged=self._media.damaged)


class _Member:
    """A member of an ensemble that tags what was kept of an open file, in place of opening it anew."""

    def __init__(self, tagger: Tagger, opened: Video) -> None:
        self._tagger, self._opened = tagger, opened
        self.label_names, self.takes = tagger.label_names, tagger.takes

    def __call__(self, video: str | Path) -> Tags:
        return _of_kept(self._tagger, self._opened, str(video))


def _of_kept(tagger: Tagger, opened: Video, name: str) -> Tags:
    _need_pictures(tagger, opened, name)
    try:
        return tagger.of_open(opened, name)
    except MediaError as error:
        raise MediaError(error.reason, name, error.detail) from None


def _need_pictures(tagger: Tagger, opened: Video, name: str) -> None:
    """Raise what a tagger says of a file of sound alone, before features of no frame are asked for."""
    if tagger.features is not None and tagger.takes == ("rgb",) and not opened.num_frames:
        raise FileSource(name, opened).no_pictures()


def _rate_hz(member: Tagger) -> int:
    """Return the rate of the sound that a member hears; 0 where it hears none."""
    if member.features is not None:
        extractor = member.features.extractor
        return extractor.view.audio.rate_hz if isinstance(extractor, SoundExtractor) else 0
    heard = "audio" in member.modalities and "audio" not in member.view.without
    return member.loaded.trained.recipe.data.audio.rate_hz if heard else 0


def _wave(media: Video | Sound, rate_hz: int) -> Tensor | None:
    if not media.has_audio:
        return None
    try:
        return media.audio(rate_hz)
    except MediaError as error:
        if error.reason == "timeout" or not media.num_frames:
            raise
        return None  # as without a timeline: the pictures are good


def _pictures(member: Tagger) -> tuple[bool, bool]:
    """Return whether a member looks at frames, and whether at flow made of them."""
    if member.features is not None:
        return not isinstance(member.features.extractor, SoundExtractor), False
    seen = set(member.modalities) - member.view.without
    return bool(seen & {"rgb", "flow"}), "flow" in seen


def _indices(member: Tagger, stretch: Stretch) -> list[int]:
    """Return the frames of a stretch that a member looks at."""
    looks, flow = _pictures(member)
    if not looks or not stretch.num_frames:
        return []
    if member.features is not None:
        view = member.features.extractor.view
        return view.choose(stretch.num_frames, stretch.fps)  # type: ignore[union-attr]  # not of sound, see above
    chosen = member.view.choose(stretch.num_frames, stretch.fps, torch.Generator().manual_seed(0))
    source = FileSource("", cast(Video, stretch))
    return source.needed(chosen, member.view.data.motion if flow and source.has_flow else None)


def _common_shrink(members: Sequence[Tagger]) -> Shrink:
    """Return what can be done to each frame at once, before it is kept: the resize of all members, where it is one."""
    steps: list[Any] = []
    for member in members:
        looks, flow = _pictures(member)
        if flow:
            return lambda frames: frames  # flow is made of the frames as they are
        if looks:
            steps.append(member.view.resize if member.features is None else member.features.extractor.view)
    if not steps or any(step != steps[0] for step in steps):
        return lambda frames: frames
    step = steps[0]
    if hasattr(step, "shrink"):
        return cast(Shrink, step.shrink)
    return lambda frames: step(frames)[0]


def _batch(member: Tagger, stretch: Stretch, name: str) -> dict[str, Tensor] | None:
    """Return what a member is given of a stretch, or None where it has nothing for it or cannot be decoded."""
    opened = cast(Video, stretch)  # it reads like one
    try:
        _need_pictures(member, opened, name)
        if member.features is not None:
            return member.features.batch(opened, name)
        return member.look(FileSource(name, opened))[0]
    except MediaError as error:
        if error.reason not in ("unsupported", "not_video", "corrupt"):
            raise
        return None


def _joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
