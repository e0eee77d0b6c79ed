"""Calls that are not carried out: their error, and the answer that a client still gets while it is sending."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_LINGER_S = 5.0


class Refused(Exception):
    """A call that is not carried out.

    Attributes:
        status: of HTTP.
        reason: a code.
        headers: of the answer, beside the usual ones.
    """

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def answer(self, *, unread: bool = False) -> JSONResponse:
        """Return the response; `unread` says that a part of the request's body has not been received."""
        content = {"error": {"reason": self.reason, "message": str(self)}}
        if unread:
            return EarlyResponse(content, self.status, {**self.headers, "Connection": "close"})
        return JSONResponse(content, self.status, self.headers)


def ending() -> Refused:
    """Return the refusal of a service that ends."""
    return Refused(503, "stopping", "the service is ending; send the file again when it is back", {"Retry-After": "10"})


class EarlyResponse(JSONResponse):
    """A response to a request whose body is not wanted any more.

    Many clients read nothing before all is sent, and a connection that is closed under them loses the answer. So it is
    sent at once, and what still comes is thrown away for some seconds.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and let the client finish."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
