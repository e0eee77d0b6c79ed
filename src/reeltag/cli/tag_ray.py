"""`reeltag tag --engine ray`: the call on this side, with its progress on standard error."""

from __future__ import annotations

import time
from typing import TextIO

from reeltag.cli.tag_job import Lines, TagJob
from reeltag.inference.any_tagger import facts_of
from reeltag.scale import require_extra

_TERMINAL_S, _FILE_S = 0.5, 10.0  # between two reports


class Progress:
    """Videos done, videos a second and the time left; a line that is rewritten on a terminal, else now and then one.

    Where results are printed on the same terminal there is none but the last.
    """

    def __init__(self, stream: TextIO, total: int, beside_lines: bool) -> None:
        self._stream, self._total, self._done = stream, total, 0
        self._terminal = stream.isatty()
        self._muted = self._terminal and beside_lines
        self._first_s = self._said_s = time.monotonic()

    def begin(self) -> None:
        """Start the clock at the first finished video: the workers' start is not part of their speed."""
        self._first_s = self._said_s = time.monotonic()

    @property
    def _rate(self) -> float:
        return (self._done - 1) / max(time.monotonic() - self._first_s, 1e-9)

    def advance(self) -> None:
        """Count a video."""
        self._done += 1
        now = time.monotonic()
        due = now - self._said_s >= (_TERMINAL_S if self._terminal else _FILE_S)
        if due and self._done > 1 and not self._muted:
            self._said_s = now
            left_s = (self._total - self._done) / max(self._rate, 1e-9)
            left = f"{int(left_s // 3600)}:{int(left_s // 60 % 60):02d}:{int(left_s % 60):02d}"
            text = f"{self._done} of {self._total} videos, {self._rate:.1f} videos/s, {left} left"
            print(f"\r{text:<70}" if self._terminal else text, end="" if self._terminal else "\n", file=self._stream)
            self._stream.flush()

    def end(self, workers: int, start_s: float) -> None:
        """Say what it took."""
        seconds = time.monotonic() - self._first_s
        took = f"{self._done} videos by {workers} workers in {seconds:.1f} s, {self._rate:.1f} videos/s"
        start = "\r" if self._terminal and not self._muted else ""
        print(f"{start}{took}, after {start_s:.1f} s to start ray", file=self._stream, flush=True)


def tag_by_ray(job: TagJob, workers: int | None, gpus: float | None, address: str | None) -> bool:
    """Tag by the workers of ray; returns whether any video failed.

    The model is loaded here first, on the CPU, so that a wrong call is one line before anything starts.
    """
    require_extra()
    from reeltag.scale.cluster import connected, silenced
    from reeltag.scale.places import check_places
    from reeltag.scale.tagging import places_of, tag_rows

    check_places(job.device, workers, gpus)
    tagger = job.call.load("cpu")
    videos, facts = job.videos(tagger), facts_of(tagger)
    del tagger
    with job.parts(facts) as parts:
        lines = Lines(len(videos), job.top, job.as_json, parts)
        left = {}
        for row, video in enumerate(videos):
            known = None if parts is None else parts.line_of(video)
            if known is None:
                left[row] = video
            else:
                lines.add(row, known)
        if left:
            begun_s = time.monotonic()
            with silenced() as stderr, connected(address):
                places = places_of(job.device, workers, gpus)
                progress = Progress(stderr, len(left), lines.on_terminal)
                for number, tagged in enumerate(tag_rows(job.call, facts, left, places, job.top)):
                    if not number:
                        start_s = time.monotonic() - begun_s
                        progress.begin()
                    lines.finish(tagged.row, tagged.stamp, tagged.line)
                    progress.advance()
                progress.end(places.workers, start_s)
        job.write(lines, parts)
    return any("error" in line for line in lines.whole)
