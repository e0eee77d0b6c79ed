"""`reeltag train --find-lr` as a person calls it."""

import re

import pytest

from reeltag.cli import main


def test_find_lr_prints_an_override_and_writes_the_curve(mini_packed, small_recipe, tmp_path, monkeypatch, capsys):
    recipe = [str(small_recipe), "train.bias_prior=false", "data.mix.name=mixup", "train.layer_decay=0.8"]
    options = ["--manifest", str(mini_packed), "--out", str(tmp_path / "lr"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["reeltag", "train", *recipe, *options, "--find-lr"])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    assert not left.value.code, captured.err
    assert re.fullmatch(r"train\.lr=[\d.e-]+\n", captured.out)
    assert 1e-6 < float(captured.out.removeprefix("train.lr=")) < 10
    assert sorted(path.name for path in (tmp_path / "lr").iterdir()) == ["find_lr.json", "find_lr.png"]
    assert "find_lr.png" in captured.err.replace("\n", "")
