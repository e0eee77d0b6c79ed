"""One ray for all tests."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


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
