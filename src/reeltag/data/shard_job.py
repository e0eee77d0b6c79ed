"""Writing a folder of shards with many processes, so that it can be killed at any moment, continued and mended."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from reeltag.data.manifest import Manifest
from reeltag.data.manifest_files import rebased
from reeltag.data.shard_file import ShardWriter
from reeltag.data.shard_folder import PLACE_COLUMNS, ShardFolder
from reeltag.data.workers import map_in_order
from reeltag.errors import StoreError, TooManyBadFiles
from reeltag.store.atomic import sha256_of, write_atomic, write_json
from reeltag.store.lock import FolderLock

STATE_FILE = "progress.jsonl"
Item = TypeVar("Item", bound="HasRow")
Progress = Callable[[int, int], None]
Lines = list[dict[str, Any]]


class HasRow(Protocol):
    """What a worker is told: at least, which row it is."""

    @property
    def row(self) -> int:
        """The row of the manifest."""
        ...


@dataclass(frozen=True)
class StoredClip:
    """What a worker sends back: the members of a sample, or why there is none.

    Attributes:
        row: of the manifest.
        parts: name to (suffix of the member, bytes); columns `<name>_offset` and `<name>_bytes` say where it lies.
        facts: the json of the sample, besides id, labels and split.
        index: other columns of the manifest.
        bad: `reason` and `message`.
    """

    row: int
    parts: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    bad: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ShardReport:
    """What writing a folder of shards did.

    Attributes:
        folder: where they lie.
        clips: stored clips; `bad`: one dictionary per clip left out, as in bad_files.jsonl.
        shards, num_bytes: tar files and their size together.
        resumed: clips that an earlier call had stored already.
        mended: damaged or missing shards that were made anew.
        wall_s: seconds of this call.
    """

    folder: Path
    clips: int
    bad: tuple[dict[str, Any], ...]
    shards: int
    num_bytes: int
    resumed: int
    mended: int
    wall_s: float

    @property
    def bad_share(self) -> float:
        """Share of the clips that could not be read."""
        return len(self.bad) / (len(self.bad) + self.clips)

    def sentence(self, what: str) -> str:
        """Return one line for people; `what` is what is stored of the clips: `pictures`, `flow`."""
        kept = f", {self.resumed} of them there before" if self.resumed else ""
        mended = f", {self.mended} damaged shards made anew" if self.mended else ""
        size = f"{self.num_bytes / 1e6:.1f} MB, {len(self.bad)} unreadable"
        return f"{self.folder}: {what} of {self.clips} clips{kept}{mended}, {size}"


@dataclass(frozen=True)
class ShardJob(Generic[Item]):
    """One sample for each row of a manifest.

    A shard is written aside, synced and renamed, then a line of `progress.jsonl` says what is in it: it counts from
    then on. A later call with the same key compares every shard with its SHA-256, makes the damaged ones anew and goes
    on behind the last one. `manifest.parquet` (the rows that could be read, with their places), `bad_files.jsonl` and,
    last, the description are written when all are there.

    Attributes:
        folder: made when it does not exist.
        reader: reads the folder; its names are those of the files and messages.
        manifest: the clips, in order.
        settings: kept in the description; with `manifest` and `sources` they make the key.
        sources: what else must be equal for finished shards to be kept: paths, or digests.
        item: from a row to what a worker is told, which must fit through a pipe.
        encode: from that to the sample, in another process: a failure to read is a result, anything else is raised.
        shard_bytes, shard_s: a shard is closed once it is this large, or has been open this long.
    """

    folder: Path
    reader: type[ShardFolder]
    manifest: Manifest
    settings: Mapping[str, Any]
    sources: Sequence[str]
    item: Callable[[int], Item]
    encode: Callable[[Item], StoredClip]
    shard_bytes: int
    shard_s: float = math.inf

    @property
    def key(self) -> str:
        """What must be equal for finished shards to be kept."""
        facts = [2, self.reader.description_name, dict(self.settings), self.manifest.hash, list(self.sources)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def run(self, workers: int, progress: Progress | None) -> ShardReport:
        """Bring the folder up to date.

        Args:
            workers: processes; 0 works in this one.
            progress: called with (clips done, clips in all), first with those that were there.

        Raises:
            StoreError: the folder holds something else, or another process writes to it.
            TooManyBadFiles: no clip at all could be read.
        """
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        with FolderLock(self.folder, f"a {self.reader.what}"):
            key = self.key
            lines = self._finished_before(key)
            damaged = [n for n, line in enumerate(lines) if not _intact(self.folder, line)]
            resumed = sum(len(line["rows"]) for n, line in enumerate(lines) if n not in damaged)
            description = self.folder / self.reader.description_name
            done = lines[-1]["next_row"] if lines else 0
            if damaged or done < len(self.manifest) or not description.exists():
                description.unlink(missing_ok=True)  # a reader sees a whole folder or none
                _Writing(self, lines, damaged, progress).run(workers)
                self._write_index(lines, key)
            elif progress is not None:
                progress(done, done)
        return ShardReport(
            folder=self.folder,
            clips=sum(len(line["rows"]) for line in lines),
            bad=tuple(bad for line in lines for bad in line["bad"]),
            shards=sum(bool(line["rows"]) for line in lines),
            num_bytes=sum(line["bytes"] for line in lines),
            resumed=resumed,
            mended=len(damaged),
            wall_s=time.monotonic() - began,
        )

    def _finished_before(self, key: str) -> Lines:
        """Return the lines of closed shards, damaged ones among them; refuse a folder with something else."""
        description, state = self.folder / self.reader.description_name, self.folder / STATE_FILE
        written = state.read_bytes().split(b"\n") if state.exists() else []
        if description.exists() and not written:
            try:
                written = [str(json.loads(description.read_bytes())["key"]).encode()]
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{description}: damaged ({error}); choose another folder, or empty this one"
                ) from None
        if written and written[0].decode(errors="replace") != key:
            unfinished = "" if description.exists() else "n unfinished"
            raise StoreError(
                f"{self.folder} holds a{unfinished} {self.reader.what} of another manifest or other settings; choose "
                "another folder"
            )
        lines: Lines = []
        for text in written[1:]:
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # the line that was being written when the call was stopped
        if not state.exists() or state.read_bytes() != _state(key, lines):
            write_atomic(state, _state(key, lines))
        return lines

    def _write_index(self, lines: Lines, key: str) -> None:
        rows = [row for line in lines for row in line["rows"]]
        bad = [one for line in lines for one in line["bad"]]
        write_atomic(self.folder / "bad_files.jsonl", _text(bad))
        if not rows:
            (self.folder / STATE_FILE).unlink()
            reasons = sorted({line["reason"] for line in bad})
            raise TooManyBadFiles(
                f"none of {len(bad)} videos can be read ({', '.join(reasons)}); see {self.folder}/bad_files.jsonl"
            )
        kept = self.manifest.take([row["row"] for row in rows])
        kept = rebased(kept, kept.root)  # a path that leaves the folder becomes absolute, or it could not be read back
        columns = (*PLACE_COLUMNS, *self.reader.columns)
        places = {name: tuple(row[name] for row in rows) for name in columns}
        # The paths stay as they were written: they name where a clip came from and are not opened again.
        replace(kept, root=self.folder, extra={**kept.extra, **places}).write(self.folder / "manifest.parquet")
        description = {
            "format": f"reeltag {self.reader.description_name.removesuffix('.json')} 1",
            "settings": dict(self.settings),
            "manifest": kept.hash,
            "key": key,
            "shards": [{name: line[name] for name in ("name", "sha256", "bytes")} for line in lines if line["rows"]],
        }
        write_json(self.folder / self.reader.description_name, description)


def _text(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _state(key: str, lines: Sequence[Mapping[str, Any]]) -> bytes:
    return key.encode() + b"\n" + _text(lines)


def _intact(folder: Path, line: Mapping[str, Any]) -> bool:
    if not line["rows"]:
        return True  # all of its clips are bad: there is no file
    path = folder / line["name"]
    return path.is_file() and path.stat().st_size == line["bytes"] and sha256_of(path) == line["sha256"]


class _Writing:
    """One call: first the rows of the damaged shards, then those behind the last shard."""

    def __init__(self, job: ShardJob[Any], lines: Lines, damaged: Sequence[int], progress: Progress | None) -> None:
        self._job, self._lines, self._progress = job, lines, progress
        self._ends = [line["next_row"] for line in lines]
        self._first = self._ends[-1] if lines else 0
        self._damaged = damaged

    def _rows(self) -> Iterator[int]:
        for number in self._damaged:
            yield from range(self._ends[number - 1] if number else 0, self._ends[number])
        yield from range(self._first, len(self._job.manifest))

    def run(self, workers: int) -> None:
        """Make the samples and close shards as they become full; `lines` ends up with one for each."""
        job = self._job
        for stray in job.folder.glob(".shard-*.part"):
            stray.unlink()
        done, total = len(job.manifest) - sum(1 for _ in self._rows()), len(job.manifest)
        self._tell(done, total)
        stored = map_in_order(job.encode, map(job.item, self._rows()), workers=workers, crashed=_crashed)
        shard: _OpenShard | None = None
        try:
            for result in stored:
                if shard is None:
                    number = bisect_right(self._ends, result.row) if result.row < self._first else len(self._lines)
                    shard = _OpenShard(job, number)
                shard.add(result)
                if self._is_full(shard, result.row + 1):
                    self._close(shard, result.row + 1)
                    shard = None
                done += 1
                self._tell(done, total)
        finally:
            stored.close()
            if shard is not None:
                shard.discard()

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    def _is_full(self, shard: _OpenShard, next_row: int) -> bool:
        """Return whether the shard ends before `next_row`; one that is made anew ends where it did."""
        if next_row <= self._first:
            return bool(next_row == self._ends[shard.number])
        job = self._job
        large = shard.writer.position >= job.shard_bytes or time.monotonic() - shard.opened_s >= job.shard_s
        return large or next_row == len(job.manifest)

    def _close(self, shard: _OpenShard, next_row: int) -> None:
        state = self._job.folder / STATE_FILE
        line = shard.finish(next_row)
        if shard.number == len(self._lines):
            self._lines.append(line)
            with state.open("ab") as file:
                file.write(_text([line]))
                file.flush()
                os.fsync(file.fileno())
        else:
            self._lines[shard.number] = line
            write_atomic(state, _state(self._job.key, self._lines))


class _OpenShard:
    """A shard while it is written, under a name that no reader takes for a shard."""

    def __init__(self, job: ShardJob[Any], number: int) -> None:
        self.number = number
        self.opened_s = time.monotonic()
        self._manifest, self._folder = job.manifest, job.folder
        self._name = f"shard-{number:06d}.tar"
        self._temporary = job.folder / f".{self._name}.part"
        self._file = self._temporary.open("wb")
        self.writer = ShardWriter(self._file)
        self._rows: Lines = []
        self._bad: Lines = []

    def add(self, clip: StoredClip) -> None:
        """Write the members of a clip, or note why there are none."""
        manifest, row = self._manifest, clip.row
        if clip.bad is not None:
            names = {"row": row, "video_id": manifest.video_ids[row], "path": manifest.paths[row]}
            self._bad.append({**names, **clip.bad})
            return
        sample = {
            "video_id": manifest.video_ids[row],
            "labels": [manifest.label_names[index] for index in manifest.labels[row]],
            "split": manifest.splits[row] if manifest.splits else "",
            **clip.facts,
        }
        start = self.writer.position
        self.writer.add(f"{row:08d}.json", json.dumps(sample).encode())
        places: dict[str, Any] = {"row": row, "shard": self._name, "offset": start, **clip.index}
        for name, (suffix, data) in clip.parts.items():
            places[f"{name}_offset"] = self.writer.add(f"{row:08d}{suffix}", data)
            places[f"{name}_bytes"] = len(data)
        self._rows.append({**places, "size": self.writer.position - start})

    def finish(self, next_row: int) -> dict[str, Any]:
        """Give the shard its name and return its line; without any sample there is no shard."""
        digest = self.writer.finish()
        self._file.close()
        if self._rows:
            os.replace(self._temporary, self._folder / self._name)
        else:
            self._temporary.unlink()
        return {
            "name": self._name, "sha256": digest, "bytes": self.writer.position if self._rows else 0,
            "next_row": next_row, "rows": self._rows, "bad": self._bad,
        }  # fmt: skip

    def discard(self) -> None:
        """Forget the shard."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _crashed(item: Any) -> StoredClip:
    return StoredClip(item.row, bad={"reason": "crashed", "message": "decoding ended its process; replace the file"})
