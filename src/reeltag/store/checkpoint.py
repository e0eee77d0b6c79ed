"""Checkpoint folders: safetensors and JSON with their SHA-256, written aside and renamed, so none is half there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reeltag.errors import StoreError
from reeltag.store.atomic import sha256_of, sync_to_disk, write_json

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write `checksums.json`: the SHA-256 of every other file of the folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {path.name: sha256_of(path) for path in files})


def verify_checksums(folder: Path) -> None:
    """Raise StoreError unless every file listed in `checksums.json` is there with its digest."""
    try:
        digests: dict[str, str] = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:
        raise StoreError(f"{folder} has no {CHECKSUMS}; it is not a whole checkpoint or bundle") from None
    except (ValueError, RecursionError):
        raise StoreError(f"{folder / CHECKSUMS} is damaged; take an earlier checkpoint") from None
    for name, digest in digests.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise StoreError(f"{folder} lacks {name}; take an earlier checkpoint or copy the folder again")
        if sha256_of(path) != digest:
            raise StoreError(f"{path} has changed since it was written (SHA-256 differs); take an earlier checkpoint")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; StoreError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist; give a run folder, a checkpoint or a bundle") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise StoreError(f"{path} is no readable safetensors file: {error}") from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors; each is made contiguous and its own storage first."""
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)


def save_checkpoint(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write `folder/step_<step>/` with one safetensors file a group, state.json and checksums, and return its path.

    Args:
        folder: the `checkpoints` folder of a run.
        step: the optimiser steps done.
        tensors: tensors by group (`model`, `optimizer`, `rng`) and name.
        state: anything that JSON holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step:08d}"
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        for group, named in tensors.items():
            write_tensors(aside / f"{group}.safetensors", named)
            sync_to_disk(aside / f"{group}.safetensors")
        write_json(aside / "state.json", state)
        write_checksums(aside)
        os.chmod(aside, 0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
        sync_to_disk(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors by group and the state of a checkpoint folder, after checking every digest."""
    verify_checksums(folder)
    tensors = {path.stem: read_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return tensors, state


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose digests hold, or None; a damaged one is passed over for the one before."""
    for path in reversed(checkpoints_of(folder)):
        try:
            verify_checksums(path)
        except StoreError:
            continue
        return path
    return None


def prune_checkpoints(folder: Path, *, keep: int = 3, also: Path | None = None) -> None:
    """Delete all but the last `keep` checkpoints and `also` (the best one), and what killed writers left behind."""
    for path in checkpoints_of(folder)[:-keep]:
        if also is None or path.name != also.name:
            shutil.rmtree(path)
    for left_over in folder.glob(".writing-*"):
        shutil.rmtree(left_over, ignore_errors=True)
