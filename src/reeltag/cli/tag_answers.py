"""What `reeltag tag` says of one file: its line of JSON and its text, with times and reasons where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from reeltag.errors import MediaError, ReeltagError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.explain import DEFAULT_METHOD, NUM_LABELS, Method, check_method, explain
from reeltag.inference.predict import Tagger
from reeltag.inference.segments import SegmentRule
from reeltag.inference.timeline import Timeline, timeline
from reeltag.inference.windows import DEFAULT_WINDOW_S, check_windows
from reeltag.schema import Tags

_SHOWN = 5


@dataclass(frozen=True)
class Answer:
    """One file's answer.

    Attributes:
        line: for `--json`.
        timeline: where it was asked for, and the file could be read.
    """

    line: dict[str, Any]
    timeline: Timeline | None = None


class Answers:
    """Answers for the files of one call.

    Args:
        seconds: the flags of `--timeline`, or None without it.
        pages: the folder of the pages of `--explain`, or None without it.
        method: of the places; None chooses.
        seed: see `reeltag.inference.explain`.
        top: how many labels to keep, and at most to explain.

    Raises:
        ReeltagError: a flag whose value is not allowed.
    """

    def __init__(
        self,
        seconds: Mapping[str, float | None] | None,
        pages: Path | None,
        method: str | None,
        seed: int,
        top: int | None,
    ) -> None:
        self._seconds, self._pages, self._seed, self._top = seconds, pages, seed, top
        if method is not None:
            check_method(method)
        self._method = cast(Method | None, method)
        self._rule = SegmentRule()
        if seconds is not None:
            self._rule = SegmentRule(min_s=seconds["min_s"] or 0.0, gap_s=seconds["gap_s"] or 0.0)
            window_s = seconds["window_s"]
            check_windows(DEFAULT_WINDOW_S if window_s is None else window_s, None)
            if window_s is not None:
                check_windows(window_s, seconds["hop_s"])
        self._names: set[str] = set()

    def of(self, tagger: Tagger | EnsembleTagger, video: Path) -> Answer:
        """Return the answer for one file; what cannot be read is an answer too."""
        over: Timeline | None = None
        try:
            if self._seconds is None:
                tags = tagger(video)
                line = tags.to_dict(self._top)
            else:
                over = timeline(
                    tagger, video, window_s=self._seconds["window_s"], hop_s=self._seconds["hop_s"], rule=self._rule
                )
                tags = over.tags
                line = over.to_dict(self._top)
            if self._pages is not None:
                page, reasons = self._explained(tagger, video, tags)
                line = {**line, "explanation": reasons, "page": str(page)}
            return Answer(line, over)
        except MediaError as error:
            return Answer({"video": str(video), "error": {"reason": error.reason, "message": error.detail}})

    def _explained(self, tagger: Tagger | EnsembleTagger, video: Path, tags: Tags) -> tuple[Path, list[dict[str, Any]]]:
        from reeltag.report.explanation import write_explanation

        assert self._pages is not None  # the caller asks for pages
        most = min(NUM_LABELS, self._top or NUM_LABELS)
        labels = tags.present[:most] or tags.labels[:1]
        found = explain(tagger, video, labels=labels, method=self._method or DEFAULT_METHOD, seed=self._seed)
        page = write_explanation(self._pages / self._page_name(video), found)
        return page, [one.to_dict() for one in found.explanations]

    def _page_name(self, video: Path) -> str:
        """Return the name of a page; files of the same name in other folders get a number."""
        name, number = f"{video.name}.html", 2
        while name in self._names:
            name, number = f"{video.name}-{number}.html", number + 1
        self._names.add(name)
        return name


def text_of(line: Mapping[str, Any], top: int | None) -> str:
    """Return a line for people; `top` is how many labels it keeps, by default five."""
    if "error" in line:
        return f"{line['video']}: unreadable: {line['error']['reason']}: {line['error']['message']}"
    marks = {True: "*", False: ""}
    rows = line["labels"][: top or _SHOWN]
    text = "  ".join(f"{row['label']}{marks[row['present']]} {row['score']:.2f}" for row in rows)
    for row in line.get("timeline", {}).get("segments", []):
        text += f"\n  {row['start_s']:9.2f} - {row['end_s']:9.2f} s  {row['label']} {row['score']:.2f}"
    if "page" in line:
        text += f"\n  why: {line['page']}"
    return f"{line['video']}: {text}"


def check_flags(flags: Mapping[str, Any], owner: str, *, given: bool) -> None:
    """Raise ReeltagError for a flag that means nothing without its owner."""
    for name, value in flags.items():
        if value is not None and not given:
            raise ReeltagError(f"--{name.replace('_', '-')} {value} is for {owner}, which is not given; add it")
