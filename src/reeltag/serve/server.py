"""Running the service: its socket, uvicorn, and how it ends."""

from __future__ import annotations

import copy
import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from reeltag.errors import ReeltagError
from reeltag.serve.app import create_app
from reeltag.serve.service import AnyTagger, Service, ServiceLimits

_LEFT_S = 5  # what uvicorn waits for after the service has given its last answers


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 is any free one.

    Raises:
        ReeltagError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise ReeltagError(
            f"cannot listen on {host} port {port}: {what}; choose another --port, or a --host of this machine"
        ) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open(bound: socket.socket) -> bool:
    """Return whether other machines can reach a bound socket."""
    return not ipaddress.ip_address(bound.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn's server; it says when it listens, and tells the service of the signal that ends it."""

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[], object] | None) -> None:
        super().__init__(config)
        self._service, self._listening = service, listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self._listening is not None:
            self._listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second Ctrl-C waits for no video."""
        self._service.stop()
        if not self.should_exit:
            super().handle_exit(sig, frame)


def serve(
    tagger: AnyTagger,
    *,
    name: str = "model",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: ServiceLimits | None = None,
    bound: socket.socket | None = None,
    listening: Callable[[str], object] | None = None,
    log_requests: bool = True,
) -> None:
    """Serve a tagger until SIGINT or SIGTERM; the Python twin of `reeltag serve`.

    Args:
        tagger: of a run, a bundle or an ensemble.
        name: of the model, as `/health` and the page show it.
        host: address to listen on.
        port: 0 is any free one.
        limits: what is taken at once; None for the defaults.
        bound: a socket of `listen`, in place of host and port.
        listening: is told the URL once requests are taken.
        log_requests: one line a request on standard error.

    Raises:
        ReeltagError: the address cannot be had.
        KeyboardInterrupt: SIGINT ended it, after what was being tagged was answered.
        SystemExit: 143, likewise by SIGTERM.
    """
    bound = bound or listen(host, port)
    url = address_of(bound)
    app = create_app(tagger, name=name, limits=limits)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=_log_config(log_requests),
        access_log=log_requests,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=round(service.limits.grace_s) + _LEFT_S,
    )
    before = signal.signal(signal.SIGTERM, _terminated)  # uvicorn raises the signal again, when it has ended
    try:
        Server(config, service, None if listening is None else lambda: listening(url)).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.close()
        bound.close()


def _terminated(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _log_config(requests: bool) -> dict[str, Any]:
    """Return uvicorn's configuration with everything on standard error, and its own start and end left out."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["uvicorn"]["level"] = "WARNING"
    config["loggers"]["uvicorn.error"] = {"level": "WARNING"}
    config["loggers"]["uvicorn.access"]["level"] = "INFO" if requests else "WARNING"
    config["loggers"]["reeltag.serve"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
