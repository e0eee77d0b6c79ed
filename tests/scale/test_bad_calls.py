"""Calls of `reeltag tag` that cannot be answered: one line, code 2."""

import sys

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "spark"], "--engine 'spark' is not known; allowed: local, ray"),
        (["--workers", "2"], "--workers 2 is for --engine ray, which is not given"),
        (["--ray-address", "auto"], "--ray-address auto is for --engine ray"),
        (["--engine", "ray", "--timeline"], "--timeline works with --engine local alone"),
        (["--engine", "ray", "--explain"], "--explain works with --engine local alone"),
    ],
)
def test_a_bad_call_is_one_line(call, words, message):
    complaint = call("tag", "nowhere", "clip.mp4", *words, code=2)
    assert message in complaint
    assert len(complaint.splitlines()) == 1


def test_without_ray_the_extra_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds where it is not installed
    complaint = call("tag", "nowhere", "clip.mp4", "--engine", "ray", code=2)
    assert complaint == "error: --engine ray needs ray, not installed here: pip install 'reeltag[scale]'\n"
