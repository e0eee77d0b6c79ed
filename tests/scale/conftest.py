"""The command line, and one ray for all tests."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reeltag.cli import main


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`call(*words, code=0)`: what is printed by a command that ends with `code`; what it complains of, for code 2."""

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["reeltag", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert (left.value.code or 0) == code, captured.err
        return captured.err if code == 2 else captured.out

    return run


@pytest.fixture
def lines_of() -> Callable[[str], list[dict]]:
    return lambda text: [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def own_ray() -> Iterator[None]:
    """A ray of this machine, which all calls share, since it takes long to start."""
    pytest.importorskip("ray")
    from reeltag.scale.cluster import connected, silenced

    stack = ExitStack()
    with silenced():
        stack.enter_context(connected(None))
    yield
    with silenced():
        stack.close()


@pytest.fixture
def videos(mini_manifest: Path, tmp_path: Path) -> list[Path]:
    """Four clips, one of them twice, and a file that is none."""
    clips = sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[:4]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    return [clips[0], bad, clips[1], clips[2], clips[1], clips[3]]
