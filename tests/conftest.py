"""Options and fixtures that every test folder shares."""

from pathlib import Path

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
