"""A real service on a free port of this machine, and a client of the standard library."""

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
import uvicorn

from reeltag.inference.predict import Tagger
from reeltag.serve.app import create_app
from reeltag.serve.server import Server, address_of, listen
from reeltag.serve.service import Service, ServiceLimits

BOUNDARY = "a-boundary"


@dataclass
class Answer:
    status: int
    headers: Any
    text: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Running:
    """A service under test."""

    url: str
    service: Service
    folder: Path
    open: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        self.open.append(connection)
        return connection

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def tag(self, *parts: tuple[str, str, bytes], path: str = "/tag", **headers: str) -> Answer:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.ask("POST", path, multipart(*parts), kind | headers)

    @staticmethod
    def body(*parts: tuple[str, str, bytes]) -> bytes:
        return multipart(*parts)

    def begin(self, *parts: tuple[str, str, bytes]) -> http.client.HTTPConnection:
        """Send files and wait for nothing."""
        connection = self.connect()
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        connection.request("POST", "/tag", multipart(*parts), kind)
        return connection

    @property
    def stored_bytes(self) -> list[int]:
        """The sizes of the uploads that lie on disk."""
        sizes = []
        for folder, _, names in os.walk(self.folder):  # which takes no offence at what is removed meanwhile
            for name in names:
                with suppress(FileNotFoundError):
                    sizes.append(os.stat(os.path.join(folder, name)).st_size)
        return sizes

    @property
    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/health").json
        return found


def multipart(*parts: tuple[str, str, bytes]) -> bytes:
    """Return a body of (field, file name or nothing for text, content)."""
    out = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename else ""
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        out += content + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


def wait_until(holds: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`until(holds, seconds=20)` waits for a condition, and fails when it does not come about."""
    return wait_until


@pytest.fixture(scope="session")
def tagger(mini_run: Path) -> Tagger:
    torch.set_num_threads(1)  # as the threads of the service, so that sums have one order
    return Tagger.from_pretrained(mini_run, device="cpu")


@pytest.fixture(scope="session")
def clips(mini_manifest: Path) -> list[Path]:
    return sorted(mini_manifest.parent.glob("videos/*.mp4"))


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`with serving(tagger, workers=1, ...) as running`: a service that has ended, with nothing left, behind it."""

    @contextmanager
    def start(tagger: Any, **limits: Any) -> Iterator[Running]:
        folder = tmp_path / "temporary"
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        app = create_app(tagger, name="small", limits=ServiceLimits(**limits))
        bound = listen("127.0.0.1", 0)
        config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=20)
        server = Server(config, app.state.service, None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        running = Running(address_of(bound), app.state.service, folder)
        try:
            wait_until(lambda: app.state.service.warm)
            yield running
        finally:
            for connection in running.open:
                connection.close()
            wait_until(lambda: app.state.service.seats.taken == 0)
            (uploads,) = folder.iterdir()  # the one folder of the service
            assert list(uploads.iterdir()) == []
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()
        assert list(folder.iterdir()) == []

    return start


class Held:
    """A tagger that waits until it is let go; what it then says is the real one's."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self.label_names, self.takes, self.loaded = tagger.label_names, tagger.takes, tagger.loaded
        self.begun = 0
        self.go = threading.Event()

    def __call__(self, video: Path) -> Any:
        if video.name != "first.mp4":
            self.begun += 1
            assert self.go.wait(30)
        return self._tagger(video)


@pytest.fixture
def held(tagger: Tagger) -> Held:
    return Held(tagger)
