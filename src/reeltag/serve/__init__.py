"""The HTTP service and its page (home of FastAPI, uvicorn and python-multipart): `reeltag serve`, see docs/serve.md."""

from __future__ import annotations

from importlib.util import find_spec

from reeltag.errors import ReeltagError

_NEEDED = ("fastapi", "uvicorn", "python_multipart")


def require_extra() -> None:
    """Raise ReeltagError where what the service is built on is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ReeltagError(f"the service needs {', '.join(missing)}, not installed here: pip install 'reeltag[serve]'")
