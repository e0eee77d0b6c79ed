"""Options and fixtures that every test folder shares."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--data", type=Path, help="a folder with the real data sets, for the slow tests that need them")
    parser.addoption("--zoo-script", type=Path, help="make_zoo.py, which writes good, broken and hostile media")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _given(request: pytest.FixtureRequest, option: str) -> Path:
    path: Path | None = request.config.getoption(option)
    if path is None:
        pytest.skip(f"needs {option}")
    assert path.exists(), f"{option} {path} does not exist"
    return path


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    return _given(request, "--data")


@pytest.fixture(scope="session")
def zoo_script(request: pytest.FixtureRequest) -> Path:
    return _given(request, "--zoo-script")


@pytest.fixture(scope="session")
def mini_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 small generated clips with sound: 32 to train on, 8 to validate, 8 to test."""
    from reeltag.data.minimoments import write_minimoments

    return write_minimoments(tmp_path_factory.mktemp("mini"), 32, 8, 8, seed=3, workers=1, tail=1.0)


@pytest.fixture(scope="session")
def mini_packed(mini_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips as packed raw frames of 40 px."""
    from reeltag.data.manifest import Manifest
    from reeltag.data.pack import pack

    out = tmp_path_factory.mktemp("packed")
    pack(Manifest.read(mini_manifest), out, store="raw", short_side_px=40, workers=0)
    return out


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in a second: four frames of 32 px, batches of four."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(
        "data: {num_frames: 4, short_side_px: 40, crop: random, crop_px: 32, flip: true, gain: 0.1,"
        " swap_labels: {horizontal: [[motion_left, motion_right], [motion_clockwise, motion_counter_clockwise]]}}\n"
        "model: {name: tsm_mini, dropout: 0.3, backbone_options: {widths: [8, 16]}}\n"
        "train: {epochs: 2, batch_size: 4, optimizer: adamw, lr: 0.01, clip_norm: 5, bias_prior: true}\n"
    )
    return path


@pytest.fixture(scope="session")
def mini_run(mini_packed: Path, small_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder trained on the packed clips."""
    from reeltag.engine.run_recipe import TrainCall, train_recipe

    out = tmp_path_factory.mktemp("runs") / "small"
    train_recipe(TrainCall(str(small_recipe), (), mini_packed, out, device="cpu"), 0, None)
    return out


@pytest.fixture(scope="session")
def forks() -> ModuleType:
    """The module `tests/together.py`, which starts connected processes."""
    spec = importlib.util.spec_from_file_location("together", Path(__file__).with_name("together.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def together(forks: ModuleType) -> Callable[..., list[Any]]:
    """`together(world, function, *args)`: what the function returned in each of several connected processes."""
    function: Callable[..., list[Any]] = forks.together
    return function


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`call(*words, code=0)`: what is printed by a command that ends with `code`; what it complains of, for code 2."""

    from reeltag.cli import main

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["reeltag", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert (left.value.code or 0) == code, captured.err
        return captured.err if code == 2 else captured.out

    return run
