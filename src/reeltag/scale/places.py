"""How many workers a cluster has room for, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reeltag.errors import ReeltagError

Node = Mapping[str, float]
_CORES = (2.0, 1.0, 0.5, 0.25, 0.125)  # of a worker: the most that still lets all of them have a place
_CORES_BESIDE_GPU = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Places:
    """Workers with what each of them reserves.

    Attributes:
        workers: their number.
        cores: of each, a fraction where they share one.
        gpus: of each, a fraction where they share one.
    """

    workers: int
    cores: float
    gpus: float

    @property
    def device(self) -> str:
        """The torch device of each worker, which sees its own GPU alone."""
        return "cuda" if self.gpus else "cpu"


def find_places(nodes: Sequence[Node], device: str, workers: int | None, gpus: float | None) -> Places:
    """Return how many workers run with what: by default one a GPU; one for two cores where there is none.

    Args:
        nodes: what each machine has, as ray names it (`CPU`, `GPU`).
        device: `auto`, `cpu` or `cuda`.
        workers: their number, or None.
        gpus: GPUs of a worker, 0 for none; or None.

    Raises:
        ReeltagError: a value that is not allowed, or more than there is.
    """
    check_places(device, workers, gpus)
    there = sum(node.get("GPU", 0) for node in nodes)
    if gpus is None:
        gpus = 0 if device == "cpu" or (device == "auto" and not there) else 1
    for cores in _CORES_BESIDE_GPU if gpus else _CORES:
        room = sum(_room(node, cores, gpus) for node in nodes)
        if room >= (workers or 1):
            return Places(workers or room, cores, gpus)
    total = sum(node.get("CPU", 0) for node in nodes)
    wanted = f"{workers or 1} workers" + (f" of {gpus:g} GPUs each" if gpus else "")
    raise ReeltagError(
        f"no room for {wanted}: ray sees {total:g} cores and {there:g} GPUs on {len(nodes)} machines; "
        "give fewer --workers or another --gpus-per-worker"
    )


def check_places(device: str, workers: int | None, gpus: float | None) -> None:
    """Raise ReeltagError for what no cluster could give; see `find_places`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ReeltagError(
            f"--device {device!r} with --engine ray: ray gives each worker its GPU; use auto, cpu or cuda"
        )
    if workers is not None and workers < 1:
        raise ReeltagError(f"--workers {workers} must be 1 or more")
    if gpus is None:
        return
    if not gpus >= 0 or (gpus > 1 and gpus % 1):  # also what is no number
        raise ReeltagError(f"--gpus-per-worker {gpus:g} must be a whole number, or a share between 0 and 1")
    if gpus and device == "cpu":
        raise ReeltagError(f"--gpus-per-worker {gpus:g} contradicts --device cpu; leave one of them out")
    if not gpus and device == "cuda":
        raise ReeltagError("--gpus-per-worker 0 contradicts --device cuda; leave one of them out")


def _room(node: Node, cores: float, gpus: float) -> int:
    room = int(node.get("CPU", 0) / cores)
    if not gpus:
        return room
    own = node.get("GPU", 0)
    # A share of a GPU lies on one GPU; several workers fill it as often as the share fits.
    return min(room, int(own / gpus) if gpus >= 1 else int(own) * int(1 / gpus + 1e-9))
