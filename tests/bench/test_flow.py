"""The flow benchmark on the smallest sizes."""

import json

import pytest

from reeltag.bench import run_bench
from reeltag.errors import RecipeError


def test_parts_are_measured_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reeltag.bench.flow.SIZES", ((24, 32),))
    out = tmp_path / "flow.json"
    run_bench("flow", ["parts=cost", "methods=dis", "rounds=2", f"out={out}"])
    (row,) = json.loads(out.read_text())["cost"]
    assert (row["height_px"], row["width_px"], row["dis_ms"] > 0) == (24, 32, True)
    found = run_bench("flow", ["parts=shifts+directions+clips", "methods=dis", "count=12", f"out={out}"])
    assert found["cost"] == [row]
    assert all(row["dis_error_px"] < 0.1 for row in found["shifts"])
    assert sum(row["dis"] for row in found["directions"]) == sum(row["clips"] for row in found["directions"]) > 0
    assert [(row["method"], row["clips"]) for row in found["clips"]] == [("dis", 12)]
    assert found["clips"][0]["clips_per_s"] > 0
    capsys.readouterr()
    with pytest.raises(RecipeError, match="'speed' is none of shifts, cost, clips, directions"):
        run_bench("flow", ["parts=speed"])
    with pytest.raises(RecipeError, match=r"'raft' is none of tvl1, dis; raft needs weights=FILE"):
        run_bench("flow", ["methods=raft"])
