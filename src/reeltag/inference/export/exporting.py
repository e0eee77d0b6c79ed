"""`reeltag.export`: a run or a bundle to one file whose numbers were compared with the model's before it appears."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from reeltag.errors import ReeltagError, StoreError
from reeltag.inference.evaluate import with_views
from reeltag.inference.export.capture import capture, reason_of
from reeltag.inference.export.facts import facts_of
from reeltag.inference.export.network import Input, PortableNetwork, inputs_of
from reeltag.inference.export.onnx_file import MAX_BYTES, OnnxFile, require_onnx, write_onnx
from reeltag.inference.export.pt2_file import Pt2File, write_pt2
from reeltag.inference.export.spectrum import with_portable_spectra
from reeltag.inference.export.trial import ExportedFile, compare_batches, wrong_axes
from reeltag.inference.load import Loaded, load_trained
from reeltag.inputs import modalities_of
from reeltag.store.atomic import sync_to_disk

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SIDES = ("height", "width")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        format: `onnx` or `pt2`.
        num_bytes: of the file, and of the data beside it.
        facts: what the file says of itself.
        difference: largest difference of a logit from the model's on drawn inputs, as a share of their deviation.
        inputs: of the file.
        loaded: the model, in fp32 on the CPU, with the views that were asked for.
        network: what was exported, to compare with.
    """

    path: Path
    format: Format
    num_bytes: int
    facts: dict[str, Any]
    difference: float
    inputs: list[Input]
    loaded: Loaded
    network: PortableNetwork


def export(
    model: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    views: str | None = None,
    checkpoint: str = "last",
    progress: Callable[[str], None] = lambda text: None,
    max_bytes: int = MAX_BYTES,
) -> Exported:
    """Write a trained model as one file for deployment, whole or not at all; see docs/export.md.

    The file is run on drawn inputs, at batches of 1 and 3 and at other sizes along each axis that is left free, and
    appears only when it gives the model's numbers. An axis along which it does not is fixed at the recipe's test view.

    Args:
        model: a run folder or a bundle.
        out: the file, ending in `.onnx` or `.pt2`.
        format: None takes the ending of `out`.
        views: `CLIPSxCROPS` in place of the recipe's, for the facts; the network sees one view at a time.
        checkpoint: `last` or `best`, for a run folder.
        progress: is told of each step.
        max_bytes: of weights in an ONNX file; more lie in `OUT.data` beside it.

    Raises:
        StoreError: no model there, or one that is damaged.
        ReeltagError: a library is missing, the ending is of no format, or the network cannot be exported.
    """
    path = Path(out)
    chosen = _format_of(path, format)
    if chosen == "onnx":
        require_onnx()
    _make_room(path)
    loaded = load_fp32(model, views=views, checkpoint=checkpoint)
    portable = with_portable_spectra(loaded.model) if chosen == "onnx" else loaded.model
    portable.requires_grad_(False)
    recipe, calibration = loaded.trained.recipe, loaded.trained.calibration
    inputs = inputs_of(loaded.model, recipe)
    names = [each.name for each in inputs]
    network = PortableNetwork(loaded.model, names, recipe.test.activation, calibration).eval()
    written = PortableNetwork(portable, names, recipe.test.activation, calibration).eval()

    with tempfile.TemporaryDirectory(prefix=f".{path.stem[:64]}-", dir=path.parent) as temporary:
        folder = Path(temporary)

        def write(free: Sequence[Input]) -> tuple[list[Input], ExportedFile]:
            progress(f"capturing {recipe.model.name} with {_shown(free)}")
            program, found = capture(written, free)
            facts = facts_of(loaded.trained, found, modalities_of(recipe, loaded.model))
            for stale in folder.iterdir():  # of an attempt before; unlinked, since it may still be mapped
                stale.unlink()
            progress(f"writing {chosen}")
            if chosen == "onnx":
                write_onnx(program, found, facts, folder, path.name, max_bytes=max_bytes)
            else:
                write_pt2(program, facts, folder, path.name)
            return found, open_exported(folder / path.name)

        found, opened, worst = _write_what_holds(write, inputs, network, progress)
        num_bytes = _move(folder, path)
    return Exported(path, chosen, num_bytes, opened.facts, worst, found, loaded, network)


def _make_room(path: Path) -> None:
    """Make the folder of a file; ReeltagError when there is none to be made, or the file is a folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReeltagError(f"--out {path} cannot be written ({error.strerror}); choose another folder") from None
    if path.is_dir():
        raise ReeltagError(f"--out {path} is a folder; name a file in it")


def _write_what_holds(
    write: Callable[[Sequence[Input]], tuple[list[Input], ExportedFile]],
    inputs: Sequence[Input],
    network: PortableNetwork,
    progress: Callable[[str], None],
) -> tuple[list[Input], ExportedFile, float]:
    """Write the file with as many free axes as hold; returns its inputs, itself and its difference from the network."""
    failed: ReeltagError | None = None
    for free in _attempts(inputs):
        try:
            found, opened = write(free)
            difference = compare_batches(network, opened, found)
            progress("trying other sizes")
            wrong = wrong_axes(network, opened, found)
            if wrong:
                found, opened = write([each.fixed(wrong) for each in found])
                difference = compare_batches(network, opened, found)
        except ReeltagError as error:
            failed = failed or error
            continue
        return found, opened, difference
    raise failed or ReeltagError("the network has no input")


def _attempts(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Yield the inputs with all their axes free, then with fixed sides of pictures, then with everything fixed."""
    axes = {axis for each in inputs for axis in each.axes if axis}
    sides = {axis for axis in axes if axis.split("_")[-1] in _SIDES}
    for number, fixed in enumerate((set[str](), sides, axes)):
        if not number or (fixed and fixed != (set(), sides)[number - 1]):
            yield [each.fixed(fixed) for each in inputs]


def _move(folder: Path, path: Path) -> int:
    """Move what lies in `folder` beside `path`, the file itself last; returns the bytes."""
    data = path.with_name(f"{path.name}.data")
    written = folder / data.name
    num_bytes = 0
    beside = written.exists()
    for source, target in ((written, data), (folder / path.name, path)):
        if source.exists():
            sync_to_disk(source)
            num_bytes += source.stat().st_size
            os.replace(source, target)
    if not beside:
        data.unlink(missing_ok=True)  # of the file that was replaced
    sync_to_disk(path.parent)
    return num_bytes


def _shown(inputs: Sequence[Input]) -> str:
    return ", ".join(f"{each.name} {each.dtype} ({', '.join(map(str, each.shape))})" for each in inputs)


def load_fp32(model: str | Path, *, views: str | None = None, checkpoint: str = "last") -> Loaded:
    """Return a run or a bundle on the CPU, which computes in fp32 whatever the recipe says, with other test views."""
    if str(model).endswith(".json"):
        raise ReeltagError(f"{model} is an ensemble; export its members one by one, and fuse their probabilities")
    loaded = load_trained(str(model), device="cpu", checkpoint=checkpoint)
    trained = replace(loaded.trained, recipe=with_views(loaded.trained.recipe, views))
    return replace(loaded, trained=trained, autocast=nullcontext)


def open_exported(path: str | Path) -> ExportedFile:
    """Open an exported file by its ending, and read its facts.

    Raises:
        ReeltagError: it does not exist, is of no known format, or was not written by `reeltag export`.
    """
    file = Path(path)
    chosen = _format_of(file, None)
    if not file.is_file():
        raise StoreError(f"{file} does not exist; `reeltag export MODEL --out {file}` writes it")
    if chosen == "onnx":
        require_onnx()
    try:
        return OnnxFile(file) if chosen == "onnx" else Pt2File(file)
    except Exception as error:  # of both libraries, which document no class for damaged files
        raise StoreError(f"{file} is no file of `reeltag export`, or is damaged: {reason_of(error)}") from error


def _format_of(path: Path, stated: str | None) -> Format:
    ending = path.suffix.lower().removeprefix(".")
    if stated is not None and stated not in FORMATS:
        raise ReeltagError(f"--format {stated!r} is none of {', '.join(FORMATS)}; choose one of them")
    if ending not in FORMATS or (stated is not None and stated != ending):
        wanted = stated or "onnx or .pt2"
        raise ReeltagError(
            f"--out {path} ends in {repr(path.suffix) if path.suffix else 'nothing'}; let it end in .{wanted}"
        )
    return ending
