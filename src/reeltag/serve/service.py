"""The service behind the routes: one tagger, its threads, the folder of uploads, and what happens to one request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from reeltag.errors import MediaError, ReeltagError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.predict import Tagger
from reeltag.media.encode import write_video
from reeltag.serve.refusal import ending
from reeltag.serve.upload import MIB, Disconnected, Received
from reeltag.serve.work import DaemonThreads, Seat, Seats

T = TypeVar("T")
AnyTagger = Tagger | EnsembleTagger
log = logging.getLogger("reeltag.serve")


@dataclass(frozen=True)
class ServiceLimits:
    """What a service takes at once.

    Attributes:
        workers: videos that are tagged at the same time; None is one a core, at most 4.
        queue: requests that may wait, beyond those; the next one is refused.
        max_mib: largest upload in MiB, all files of a request together.
        idle_s: how long a client may send nothing in the middle of an upload.
        grace_s: how long videos that are being tagged are waited for when the service ends.
    """

    workers: int | None = None
    queue: int = 16
    max_mib: int = 512
    idle_s: float = 30.0
    grace_s: float = 10.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, or None, got {self.workers}")
        if self.queue < 0 or self.max_mib < 1:
            raise ValueError(f"queue must be at least 0 and max_mib at least 1, got {self.queue} and {self.max_mib}")


class Service:
    """Tags uploads; `start` inside the event loop, `close` from anywhere, more than once if need be.

    Args:
        tagger: called by several threads at once. That is safe: a forward pass in evaluation mode writes nothing to the
            model but the number of frames a clip, which the recipe fixes; all else belongs to the call or the thread.
        name: of the model, for answers.
        limits: what is taken at once.
    """

    def __init__(self, tagger: AnyTagger, name: str, limits: ServiceLimits) -> None:
        self.tagger, self.name, self.limits = tagger, name, limits
        self.workers = limits.workers or min(4, _cores())
        self.seats = Seats(self.workers, limits.queue)
        self.warm = self.stopping = False
        self._threads: DaemonThreads | None = None
        self._folder: Path | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped, self._at_once = asyncio.Event(), asyncio.Event()

    @property
    def device(self) -> str:
        """Where the model runs."""
        first = self.tagger.taggers[0] if isinstance(self.tagger, EnsembleTagger) else self.tagger
        return str(first.loaded.device)

    @property
    def ready(self) -> bool:
        """A first clip went through the model, and the service is not ending."""
        return self.warm and not self.stopping

    @property
    def max_bytes(self) -> int:
        """The largest upload."""
        return self.limits.max_mib * MIB

    # ------------------------------------------------------------------ start and end

    def start(self) -> None:
        """Make the folder and the threads, and send a first clip through the model."""
        self._loop = asyncio.get_running_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="reeltag-serve-"))
        # Together the threads compute on as many cores as one call of the tagger would.
        per_worker = max(1, torch.get_num_threads() // self.workers)
        self._threads = DaemonThreads(self.workers, lambda: torch.set_num_threads(per_worker))
        self._threads.submit(self._warm_up)

    def _warm_up(self) -> None:
        """Tag a made clip: what is loaded or chosen on first use is in place before the first request."""
        assert self._folder is not None
        clip = self._folder / "first.mp4"
        drawn = np.random.default_rng(0)
        try:
            frames = drawn.integers(0, 256, (16, 96, 96, 3), dtype=np.uint8)
            write_video(clip, frames, 8, audio=drawn.uniform(-0.5, 0.5, 32_000).astype(np.float32))
            self.tagger(clip)
        except MediaError as error:
            log.debug("the first clip has nothing for this model: %s", error)
        except Exception:
            if not self.stopping:
                log.exception("the model fails on a made clip; /health says that the service is not ready")
            return
        finally:
            clip.unlink(missing_ok=True)
        self.warm = True

    def stop(self) -> None:
        """Begin to end: nothing new is taken, what waits is refused, what is being tagged has `grace_s` left.

        A second call refuses that too.
        """
        event = self._at_once if self.stopping else self._stopped
        self.stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Remove what lies on disk and let the threads end when their video does."""
        self.stopping = True
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ one request

    def new_folder(self) -> tempfile.TemporaryDirectory[str]:
        """Return a folder for the files of one request."""
        return tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True)

    async def tag(
        self, files: list[Received], top: int | None, seat: Seat, gone: Callable[[], Coroutine[Any, Any, None]]
    ) -> list[dict[str, Any]]:
        """Return the line of `reeltag tag --json` for each file, one after the other.

        Args:
            files: of one request.
            top: keep the best labels alone.
            seat: of the request.
            gone: returns when the client has gone away.

        Raises:
            Disconnected: it has; a video that is being tagged is finished by its thread, the others are left out.
            Refused: 503, the service ends.
        """
        watch = asyncio.ensure_future(gone())
        try:
            return [await self._one(file, top, seat, watch) for file in files]
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _one(self, file: Received, top: int | None, seat: Seat, watch: asyncio.Future[None]) -> dict[str, Any]:
        if self.stopping or self._threads is None:
            raise ending()
        job = seat.run(self._threads, self._line, file, top)
        answer = asyncio.wrap_future(job)
        stopped, at_once = (asyncio.ensure_future(event.wait()) for event in (self._stopped, self._at_once))
        try:
            ends: list[asyncio.Future[Any]] = [answer, watch, at_once]
            await asyncio.wait([*ends, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and stopped.done() and not job.cancel():
                await asyncio.wait(ends, timeout=self.limits.grace_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            at_once.cancel()
            _abandon(answer, job)
        if answer.done() and not answer.cancelled():
            return answer.result()
        if watch.done():
            raise Disconnected
        raise ending()

    def _line(self, file: Received, top: int | None) -> dict[str, Any]:
        """Return the answer for one file, in a thread."""
        try:
            tags = self.tagger(file.path)
        except MediaError as error:
            return _failed(file, error.reason, error.detail)
        except ReeltagError as error:
            return _failed(file, "failed", str(error).replace(str(file.path), file.name))
        except Exception:
            if not self.stopping:
                log.exception("tagging %r failed", file.name)
            return _failed(file, "internal", "an error of the service, described in its log; the other files go on")
        return replace(tags, video=file.name).to_dict(top)


def _failed(file: Received, reason: str, message: str) -> dict[str, Any]:
    return {"video": file.name, "error": {"reason": reason, "message": message}}


def _abandon(answer: asyncio.Future[Any], job: Future[Any]) -> None:
    """Leave a job that nobody waits for: one that has not begun never begins."""
    if not answer.done():
        job.cancel()
        answer.cancel()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_tagger(
    model: str, *, device: str = "auto", checkpoint: str = "last", extractor: str | None = None
) -> AnyTagger:
    """Load a run folder, a bundle or an ensemble (a JSON file), as `reeltag tag` does.

    Raises:
        StoreError: nothing there, or something that does not fit or is damaged.
    """
    kind = EnsembleTagger.from_file if model.endswith(".json") else Tagger.from_pretrained
    return kind(model, device=device, checkpoint=checkpoint, extractor=extractor)
