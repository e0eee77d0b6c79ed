"""The page: self-contained, escaped, and with the numbers of the run."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from reeltag.errors import StoreError
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.report.page import number, write_report
from reeltag.report.summary import RunSummary, read_run
from reeltag.store.scores import Scores

VOID = ("meta", "br")


class Page(HTMLParser):
    """Collects tags and text, and checks that tags close in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data + " "


def frames_of(video):
    if video.endswith("05.mp4"):
        return None
    return np.full((4, 60, 80, 3), 128, np.uint8)


@pytest.fixture
def html(run_folder, tmp_path):
    out = write_report(tmp_path / "new folder" / "report.html", runs=[read_run(run_folder)], frames_of=frames_of)
    return out.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ("src", "href", "xlink:href", "action"):
                assert value.startswith("#"), f"{tag} {name}={value}"
    assert set(re.findall(r"url\(([a-z]+:[a-z/]+)", html)) == {"data:image/jpeg"}
    assert "@import" not in html
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_hostile_names_are_text(html):
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours, which sorts tables
    assert 'alert("x")' in page.text
    assert "<script>alert" not in html
    assert "https://example.org </pre><b>" in page.text
    assert ("b", {}) in page.tags  # of the tiles
    assert html.count("<pre>") == html.count("</pre>") == 1


def test_the_numbers_of_the_run_are_there(html, scores):
    text = Page(html).text
    results = evaluate_scores(scores.values, scores.targets)
    for name in ("map_macro", "map_samples", "gap", "top_5"):
        assert re.search(rf"\b{name}\s+{results.values[name]:.4f}\b", text), name
    assert re.search(r"map_samples\s+[\d.]+\s+62.49", text)
    assert re.search(r"map_macro@clip\s+0.4321", text)  # from results.json, which does not override a score file
    for row in results.per_label[:4]:
        assert f"{row.average_precision:.3f}" in text
        assert f"width: {100 * row.average_precision:.1f}%" in html
    threshold = results.per_label[1].best_threshold
    assert f"{1 / (1 + np.exp(-threshold)):.3f}" in text
    assert "1 of 5 labels without a positive video" in text
    assert "2 of 30 videos without a label" in text
    assert "25 %" in text  # waiting for data
    assert "no positive video" in text
    assert re.search(r"truncated\s+ends after 12 of 36 frames", text)


def test_charts_and_clips(html):
    page = Page(html)
    charts = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert charts == [
        *("loss over step", "value over epoch", "learning rate over step", "share over step"),
        "share of pairs that are true over probability",
        *("videos by labels, by falling frequency", "videos by labels of a video"),
    ]
    strips = [a for _, a in page.tags if a.get("class") == "frames"]
    cards = [a for _, a in page.tags if a.get("class") == "card"]
    assert len(cards) == 16  # eight best and eight worst of the 28 clips with labels
    assert len(cards) - 1 <= len(strips) <= len(cards)
    assert all("steps(4, jump-none)" in a["style"] and "aspect-ratio: 1.3333" in a["style"] for a in strips)


def test_several_runs_and_a_score_file_alone(run_folder, tmp_path, scores):
    scores.write(tmp_path / "ensemble.parquet")
    runs = [read_run(run_folder), read_run(tmp_path / "ensemble.parquet")]
    page = Page(write_report(tmp_path / "r.html", runs=runs, title="Two & more").read_text(encoding="utf-8"))
    assert [a["id"] for t, a in page.tags if t == "section"] == ["run1", "run2"]
    assert [a["href"] for t, a in page.tags if t == "a"] == ["#run1", "#run2"]
    assert "Two & more" in page.text
    value = evaluate_scores(scores.values, scores.targets).values["map_macro"]
    assert re.search(rf"map_macro\s+{value:.4f}\s+–\s+{value:.4f}", page.text)  # run, reported, ensemble


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {name: x}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    text = Page(write_report(tmp_path / "r.html", runs=[read_run(tmp_path)]).read_text(encoding="utf-8")).text
    assert "no score file with truth" in text
    assert "0.5000" in text


def test_scores_without_truth_or_videos(tmp_path):
    plain = Scores(["a"], np.zeros((1, 2), np.float32), ["x", "y"], "logit", split="test")
    empty = Scores([], np.zeros((0, 2), np.float32), ["x", "y"], "logit", targets=np.zeros((0, 2), np.uint8), split="v")
    runs = [RunSummary("plain", scores={"test": plain}), RunSummary("empty", scores={"v": empty})]
    text = Page(write_report(tmp_path / "r.html", runs=runs).read_text(encoding="utf-8")).text
    assert "plain: no score file with truth" in text
    assert "2 of 2 labels without a positive video" in text


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        read_run(tmp_path / "nothing")
    with pytest.raises(StoreError, match="no recipe.yaml"):
        read_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("a: [")
    with pytest.raises(StoreError, match="not YAML"):
        read_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("a: 1")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        write_report(tmp_path / "r.html", runs=[])


def test_number():
    assert [number(None), number(float("nan")), number(0.12345), number(1, 1)] == ["–", "–", "0.123", "1.0"]
