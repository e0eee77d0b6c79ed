"""The README holds: its commands exist with their options, and its Python compiles."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from reeltag.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = sorted({line.split("#")[0].strip() for line in re.findall(r"^reeltag .*$", SHELL, re.MULTILINE)})
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)


@pytest.mark.parametrize("command", [part.strip() for line in COMMANDS for part in line.split("&&")])
def test_commands_exist_and_take_their_options(command, monkeypatch, capsys):
    words = shlex.split(command)
    if words[0] != "reeltag":
        return
    verb = words[1:3] if words[1] in ("data", "ensemble") else words[1:2]
    monkeypatch.setattr("sys.argv", ["reeltag", *verb, "--help"])
    with pytest.raises(SystemExit) as left:
        main()
    text = capsys.readouterr().out
    assert left.value.code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in text, f"{' '.join(verb)} has no {option}"


def test_python_blocks_compile():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PROSE):
        assert (ROOT / target).exists(), target
