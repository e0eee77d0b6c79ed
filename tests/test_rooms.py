"""Who may import whom: a room imports only from rooms to its left, and each heavy library has one home."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reeltag

ROOT = Path(reeltag.__file__).parent
ORDER = [
    {"errors"},
    {"schema", "registry"},
    {"sections"},
    {"recipe", "store", "hardware", "watch"},
    {"processes"},
    {"media", "layers", "losses", "metrics"},
    {"data", "models"},
    {"hub"},
    {"inputs"},
    {"build"},
    {"engine", "inference"},
    {"report", "serve", "scale", "bench"},
    {"cli"},
    {"__main__"},
]
# The rooms that may read each other within one step, in this direction only.
SIDEWAYS = {("report", "bench"), ("schema", "registry"), ("recipe", "store")}
HOMES = {
    "av": {"media"},
    "timm": {"models/image2d.py"},
    "transformers": {"models/adapters/transformers.py"},
    "accelerate": {"engine/loop.py"},
    "cv2": {"media/flow", "bench/decode.py"},
    "decord": {"bench/decode.py"},
    "sklearn": {"inference/baselines", "bench/metrics.py"},
    "torchmetrics": {"bench/metrics.py"},
    "pyarrow": {"data", "store", "inference/tag_table.py"},
    "onnx": {"inference/export/onnx_file.py"},
    "onnxscript": {"inference/export/onnx_file.py"},
    "onnxruntime": {"inference/export/onnx_file.py"},
    "typer": {"cli"},
    "jinja2": {"report"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "ray": {"scale"},
    "python_multipart": {"serve"},
}
FILES = sorted(ROOT.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_from_their_left(path):
    room = room_of(path)
    if room == "__init__":  # the package's own lazy names
        return
    steps = {name: step for step, names in enumerate(ORDER) for name in names}
    for module in imports_of(path):
        if not module.startswith("reeltag."):
            continue
        other = module.split(".")[1]
        if other in (room, "__version__") or other not in steps:
            continue
        allowed = steps[other] < steps[room] or (other, room) in SIDEWAYS
        assert allowed, f"{path.relative_to(ROOT)} imports {module}: {other} is not to the left of {room}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_have_one_home(library):
    for path in FILES:
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path)):
            place = path.relative_to(ROOT).as_posix()
            assert any(place.startswith(home) for home in HOMES[library]), f"{place} imports {library}"


def test_help_and_version_load_neither_torch_nor_other_heavy_libraries():
    code = (
        "import sys, reeltag, reeltag.cli; print([m for m in ('torch', 'av', 'timm', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_small_and_say_what_they_hold():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path} is longer than 400 lines"
        assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it holds"
