"""A connection to ray: a fresh instance on this machine that nobody else can reach, or a cluster that is there."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from reeltag.errors import ReeltagError

# Read by ray when it is loaded. No report of use; a worker without a GPU keeps its environment; without clusters the
# address of this machine is 127.0.0.1, and every port listens there alone; and what was asked for is not put behind
# every other program.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
_STORE_BYTES = 100 << 20  # rows are lines of text


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to ray; in the end an instance of our own is ended with all its processes and files.

    A program that is connected already stays so.

    Args:
        address: of a cluster, as `ray start --head` prints it, or `auto`; None starts an instance.

    Raises:
        ReeltagError: no cluster answers there, or ray does not start.
    """
    os.environ.update(_SETTINGS if address else _SETTINGS | _ALONE)
    import ray

    if ray.is_initialized():
        yield
        return
    folder = None if address else Path(tempfile.mkdtemp(prefix="reeltag-ray-", dir="/tmp"))  # sockets: short paths
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                own = {"_node_ip_address": "127.0.0.1", "_temp_dir": str(folder)}
                ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"ray at {address!r} does not answer" if address else "ray does not start here"
            raise ReeltagError(f"{where}: {str(error).splitlines()[0]}; see docs/scale.md") from None
        yield
    finally:
        ray.shutdown(wait_for_processes=True)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Send nowhere what ray writes to standard error, and to Python's standard output; yields the real standard error.

    Who prints meanwhile needs a standard output from before.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        # A captured standard error, as tests have it, is no descriptor.
        with open(os.dup(kept), "w", encoding="utf-8") as real, open(os.devnull, "w") as null:
            stream = real if _is_descriptor(sys.stderr) else sys.stderr
            with redirect_stderr(null), redirect_stdout(null), warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"ray\.")  # of ray's parts about each other
                yield stream
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _is_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False
