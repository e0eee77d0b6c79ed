"""The command line, called as a person calls it."""

from collections.abc import Callable

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
