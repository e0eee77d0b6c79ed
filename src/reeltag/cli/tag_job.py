"""One call of `reeltag tag`: its videos, its lines in their order, its table; tagged here, or by `tag_ray`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reeltag.cli.tag_answers import Answers, text_of
from reeltag.errors import ReeltagError
from reeltag.inference.any_tagger import AnyTagger, TaggerCall, facts_of
from reeltag.inference.predict import find_videos
from reeltag.inference.tag_table import write_tags, write_timelines
from reeltag.inference.timeline import Timeline
from reeltag.store.tag_parts import Stamp, TagParts, stamp_of

ENGINES = ("local", "ray")


class Lines:
    """The lines of a call, printed in the order of the videos whatever order they come in.

    Args:
        count: of videos.
        top: see `text_of`.
        as_json: whether a line is JSON.
        parts: where finished lines are kept, or None.
    """

    def __init__(self, count: int, top: int | None, as_json: bool, parts: TagParts | None) -> None:
        self.all: list[dict[str, Any] | None] = [None] * count
        self._top, self._as_json, self._parts = top, as_json, parts
        self._printed, self._stdout = 0, sys.stdout  # which is another one while ray is silenced

    def add(self, row: int, line: dict[str, Any]) -> None:
        """Take the line of a video that is known already."""
        self.all[row] = line
        while self._printed < len(self.all) and (now := self.all[self._printed]) is not None:
            text = json.dumps(now, ensure_ascii=False) if self._as_json else text_of(now, self._top)
            print(text, file=self._stdout, flush=True)
            self._printed += 1

    def finish(self, row: int, stamp: Stamp, line: dict[str, Any]) -> None:
        """Take a new line and keep it; `stamp` is of the video before it was tagged."""
        if self._parts is not None:
            self._parts.add(stamp, line)
        self.add(row, line)

    @property
    def on_terminal(self) -> bool:
        """Whether a person sees the lines as they come."""
        return self._stdout.isatty()

    @property
    def whole(self) -> list[dict[str, Any]]:
        """All lines, once they are there."""
        return [line for line in self.all if line is not None]


@dataclass(frozen=True)
class TagJob:
    """What a call asks for.

    Attributes:
        call: the model.
        inputs: files, folders and manifests.
        device: a torch device, or `auto`.
        top: how many labels a line keeps, or None.
        out: the table, or None.
        as_json: whether lines are JSON.
    """

    call: TaggerCall
    inputs: list[Path]
    device: str
    top: int | None
    out: Path | None
    as_json: bool

    def videos(self, tagger: AnyTagger) -> list[Path]:
        """Return the files; ReeltagError where there are none."""
        found = find_videos(self.inputs, sounds="audio" in tagger.takes)
        if not found:
            raise ReeltagError(
                f"no video found in {', '.join(map(str, self.inputs))}; give files, folders or a manifest"
            )
        return found

    @contextmanager
    def parts(self, facts: Mapping[str, str]) -> Iterator[TagParts | None]:
        """Open the parts beside the table; without a table there are none."""
        if self.out is None:
            yield None
            return
        top = "all" if self.top is None else str(self.top)
        with TagParts(self.out, {**facts, "--top": top}) as parts:
            yield parts

    def here(self, answers: Answers, *, over_time: bool, parts: bool) -> bool:
        """Tag one video after the other in this process; returns whether any failed.

        Args:
            answers: what is said of a file.
            over_time: whether windows are written too.
            parts: whether finished lines are kept, and used by the same call after it was ended.
        """
        tagger = self.call.load(self.device)
        videos = self.videos(tagger)
        timelines: list[Timeline] = []
        with self.parts(facts_of(tagger)) if parts else _nothing() as kept:
            lines = Lines(len(videos), self.top, self.as_json, kept)
            for row, video in enumerate(videos):
                if kept is not None and (known := kept.line_of(video)) is not None:
                    lines.add(row, known)
                    continue
                stamp = stamp_of(video)
                answer = answers.of(tagger, video)
                lines.finish(row, stamp, answer.line)
                timelines += [] if answer.timeline is None else [answer.timeline]
            self.write(lines, kept)
        if self.out is not None and over_time:
            write_timelines(self.out.with_suffix(".timeline.parquet"), timelines)
        return any("error" in line for line in lines.whole)

    def write(self, lines: Lines, parts: TagParts | None) -> None:
        """Write the table of all lines, after which the parts are not needed."""
        if self.out is not None:
            write_tags(self.out, lines.whole)
        if parts is not None:
            parts.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def check_engine(engine: str, flags: Mapping[str, bool]) -> None:
    """Raise ReeltagError for an engine that is none, or flags that it does not take."""
    if engine not in ENGINES:
        raise ReeltagError(f"--engine {engine!r} is not known; allowed: {', '.join(ENGINES)}")
    if engine == "ray" and (given := [name for name, is_given in flags.items() if is_given]):
        raise ReeltagError(f"{given[0]} works with --engine local alone; leave out one of the two")
