"""`reeltag bench serve`: what the service adds to a call of the tagger, and what it answers to several clients."""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reeltag.bench import BENCHES
from reeltag.errors import ReeltagError
from reeltag.inference.predict import Tagger
from reeltag.store.atomic import write_json

_BOUNDARY = "reeltag-bench-boundary"
_START_S = 180.0


class Client:
    """One connection that is kept open, as a program that tags many files has it."""

    def __init__(self, address: str, video: Path) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=120)
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{video.name}"\r\n\r\n'
        self._body = head.encode() + video.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()

    def ready(self) -> bool:
        """Return whether the service takes requests."""
        self._connection.request("GET", "/health")
        found = json.loads(self._connection.getresponse().read())
        return bool(found["ready"])

    def tag(self) -> dict[str, Any]:
        """Send the video and return its tags."""
        kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        self._connection.request("POST", "/tag", self._body, kind)
        answer = self._connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        if answer.status != 200:
            raise ReeltagError(f"the service answers {answer.status}: {found['error']['message']}")
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def served(run: str, workers: int, device: str) -> Iterator[str]:
    """Run `reeltag serve` in a process of its own; yields host:port, once a first clip went through the model."""
    command = [sys.executable, "-m", "reeltag", "serve", run, "--port", "0", "--quiet", "--device", device]
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://(\S+)", process.stdout.readline())
        if found is None:
            raise ReeltagError(f"`reeltag serve {run}` did not start; its message stands above")
        yield found[1]
    finally:
        process.terminate()
        process.communicate()


def opened(address: str, video: Path, count: int) -> list[Client]:
    """Return clients of a service that is ready."""
    clients = [Client(address, video) for _ in range(count)]
    deadline = time.monotonic() + _START_S
    while not clients[0].ready():
        if time.monotonic() > deadline:
            raise ReeltagError(f"the service was not ready after {_START_S:g} s; its log stands above")
        time.sleep(0.1)
    return clients


def summary(seconds: Sequence[float], wall_s: float) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds, and calls a second of wall-clock time."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 2),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] * 1e3, 2),
        "per_s": round(len(ordered) / wall_s, 2),
    }


def _timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def one_by_one(tagger: Tagger, client: Client, video: Path, rounds: int) -> dict[str, Any]:
    """Return the times of calls and of requests, pair by pair; the order inside a pair alternates."""
    said = replace(tagger(video), video=video.name).to_dict()
    if client.tag() != said:
        raise ReeltagError(f"the service and the tagger differ on {video}; give both the same OMP_NUM_THREADS")
    direct: list[float] = []
    service: list[float] = []
    for number in range(rounds):
        sides = [(direct, lambda: tagger(video)), (service, client.tag)]
        for times, call in sides[:: 1 if number % 2 else -1]:
            times.append(_timed(call))
    added = [ours - alone for ours, alone in zip(service, direct, strict=True)]
    return {
        "tagger": summary(direct, sum(direct)),
        "service": summary(service, sum(service)),
        "added_ms": round(statistics.median(added) * 1e3, 2),
    }


def at_once(clients: Sequence[Client], rounds: int) -> dict[str, Any]:
    """Return the times of requests of several clients, each of which sends the next when it has its answer."""
    with ThreadPoolExecutor(len(clients)) as pool:
        started = time.perf_counter()
        found = list(pool.map(lambda client: [_timed(client.tag) for _ in range(rounds)], clients))
        wall_s = time.perf_counter() - started
    return {"clients": len(clients), **summary([each for times in found for each in times], wall_s)}


@BENCHES.register("serve")
def run_serve(
    run: str | None = None,
    video: str | None = None,
    rounds: int = 100,
    workers: int = 2,
    clients: int = 4,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, Any]:
    """Measure requests over loopback beside calls of the tagger on the same file, print and write the result.

    Args:
        run: a run folder or a bundle.
        video: a file.
        rounds: pairs of a call and a request, one after the other; and requests of each client afterwards.
        workers: threads that tag, when several clients send.
        clients: connections at once.
        device: a torch device, or `auto`.
        out: a JSON file to write; None writes none.

    Raises:
        ReeltagError: no run or no video is given, the service does not start, or it answers otherwise than the tagger.
    """
    if run is None or video is None:
        raise ReeltagError("give a model and a file: `reeltag bench serve run=RUN video=FILE`")
    file, tagger = Path(video), Tagger.from_pretrained(run, device=device)
    with served(run, 1, device) as address:
        (client,) = opened(address, file, 1)
        result: dict[str, Any] = {
            "what": "tagging one file by a call, and by a request over loopback; the file is uploaded each time",
            "model": tagger.loaded.trained.recipe.model.name,
            "file_kib": round(file.stat().st_size / 1024, 1),
            "one_by_one": one_by_one(tagger, client, file, rounds),
        }
        client.close()
    with served(run, workers, device) as address:
        many = opened(address, file, clients)
        result["at_once"] = {"workers": workers, **at_once(many, rounds)}
        for client in many:
            client.close()
    result |= {
        "device": str(tagger.loaded.device),
        "torch_threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }
    if out is not None:
        write_json(Path(out), result)
    print(json.dumps(result, indent=1))
    return result
