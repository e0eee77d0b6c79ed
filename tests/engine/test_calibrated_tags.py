"""A calibrated run, bundle or ensemble tags as its calibration says; the command line shows and stores it."""

import json
import shutil

import numpy as np
import pytest

from reeltag.cli import app, main
from reeltag.data.manifest import Manifest
from reeltag.errors import ReeltagError, StoreError
from reeltag.hub.bundle import read_trained, write_bundle
from reeltag.inference.calibrate_model import ScoredOn, calibrate
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.explain import explain
from reeltag.inference.label_thresholds import Goal
from reeltag.inference.predict import Tagger
from reeltag.inference.timeline import timeline
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores


@pytest.fixture
def run(mini_run, tmp_path):
    """A run that was not evaluated yet."""
    return shutil.copytree(mini_run, tmp_path / "run")


def by_label(tags):
    return {label: (score, bar) for label, score, bar in zip(tags.labels, tags.scores, tags.thresholds, strict=True)}


def test_a_run_is_scored_calibrated_and_tags_accordingly(run, mini_packed, mini_manifest):
    video = Manifest.read(mini_manifest).video_path(40)
    raw = by_label(Tagger.from_pretrained(run, device="cpu")(video))
    on = ScoredOn(mini_packed, "all", device="cpu", workers=0)
    found = calibrate(run, on, method="platt", goal=Goal("f1_macro"))
    made = found.calibration
    assert made.videos == 48
    assert made.weights_hash == read_trained(run).weights_hash
    tags = Tagger.from_pretrained(run, device="cpu")(video)
    assert tags.scores == sorted(tags.scores, reverse=True)
    for place, label in enumerate(made.label_names):
        score, bar = by_label(tags)[label]
        odds = np.log(raw[label][0] / (1 - raw[label][0]))
        assert score == pytest.approx(1 / (1 + np.exp(-made.slopes[place] * odds - made.shifts[place])), abs=1e-5)
        assert bar == made.thresholds[place]
    assert by_label(Tagger.from_pretrained(run, device="cpu", calibrated=False)(video)) == raw
    # Scores that are there are taken, whatever the calibration: they are measured without it.
    again = calibrate(run, ScoredOn(split="all", device="cpu"), method="platt", goal=Goal("f1_macro"))
    assert again.calibration == made


def test_evaluation_measures_decisions_at_the_thresholds(run, mini_packed, capsys):
    given = [str(run), "--manifest", str(mini_packed), "--split", "all", "--device", "cpu", "--workers", "0"]
    app(["evaluate", *given], standalone_mode=False)
    before = json.loads((run / "results.json").read_text())
    assert "calibrated" not in before
    capsys.readouterr()
    app(["calibrate", *given], standalone_mode=False)
    said = capsys.readouterr()
    assert "48 videos of all" in said.out
    assert "(chosen)" in said.out
    assert "all.parquet" in said.err  # the scores of the evaluation, which are of this manifest
    app(["evaluate", *given], standalone_mode=False)
    assert "calibrated (fitted on these very videos): ece" in capsys.readouterr().out
    after = json.loads((run / "results.json").read_text())
    assert after["values"] == before["values"]
    bars = np.array(list(json.loads((run / "thresholds.json").read_text()).values()))
    scores, made = Scores.read(run / "scores" / "all.parquet"), Calibration.read(run, read_trained(run).label_names)
    decided, truth = made.apply(scores.values) >= bars, scores.targets > 0
    f1 = 2 * (decided & truth).sum() / (decided.sum() + truth.sum())
    assert after["calibrated"]["values"]["f1_micro"] == pytest.approx(f1)
    assert after["calibrated"]["fitted_on_these_videos"] is True


def test_a_bundle_stays_whole_and_carries_its_calibration(run, mini_packed, tmp_path):
    calibrate(run, ScoredOn(mini_packed, "all", device="cpu", workers=0))
    bundle = write_bundle(read_trained(run), tmp_path / "bundle")
    assert read_trained(bundle).calibration == read_trained(run).calibration
    made = calibrate(
        bundle, ScoredOn(mini_packed, "all", device="cpu", workers=0), goal=Goal("recall", 0.8)
    ).calibration
    assert read_trained(bundle).calibration == made  # whose digests would not hold otherwise
    assert made.goal == "recall=0.8"


def test_a_calibration_of_other_weights_is_left_aside_and_said(run, mini_packed):
    calibrate(run, ScoredOn(mini_packed, "all", device="cpu", workers=0))
    facts = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps({**facts, "weights_hash": "0" * 64}))
    with pytest.warns(UserWarning, match="calibrated with other weights than these"):
        trained = read_trained(run)
    assert trained.calibration is None
    assert set(trained.thresholds) == {0.5}


def test_an_ensemble_is_calibrated_on_fused_scores_of_members_without_calibration(
    run, mini_packed, mini_manifest, tmp_path
):
    other = shutil.copytree(run, tmp_path / "other")
    on = ScoredOn(mini_packed, "all", device="cpu", workers=0)
    calibrate(run, on, method="platt")  # of its own: no business of the ensemble
    calibrate(other, on)
    given = [f"a={run}", f"b={other}"]
    file = tmp_path / "both.json"
    app(["ensemble", "fit", *given, "--split", "all", "--out", str(file)], standalone_mode=False)
    video = Manifest.read(mini_manifest).video_path(40)
    raw = by_label(EnsembleTagger.from_file(file, device="cpu")(video))
    made = calibrate(file, on).calibration
    stored = Ensemble.read(file)
    assert stored.calibration is not None
    assert stored.calibration.slopes == made.slopes
    tags = by_label(EnsembleTagger.from_file(file, device="cpu")(video))
    for place, label in enumerate(made.label_names):
        odds = np.log(raw[label][0] / (1 - raw[label][0]))
        assert tags[label][0] == pytest.approx(1 / (1 + np.exp(-made.slopes[place] * odds)), abs=1e-5)
        assert tags[label][1] == made.thresholds[place]
    # The same by hand, from a file of scores.
    app(
        ["ensemble", "apply", str(file), *given, "--split", "all", "--out", str(tmp_path / "f.parquet")],
        standalone_mode=False,
    )
    assert calibrate(tmp_path / "f.parquet", into=file).calibration.slopes == made.slopes
    with pytest.raises(ReeltagError, match=r"lies in no run folder; say with --into"):
        calibrate(tmp_path / "f.parquet")
    with pytest.raises(StoreError, match=r"holds .*evaluate it again"):
        calibrate(tmp_path / "f.parquet", into=run)


def test_what_cannot_be_calibrated_ends_with_code_2_and_one_line(run, tmp_path, monkeypatch, capsys):
    def refused(*words):
        monkeypatch.setattr("sys.argv", ["reeltag", "calibrate", *map(str, words), "--device", "cpu"])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    assert "does not exist" in refused(tmp_path / "nothing")
    assert "none of f1_micro, f1_macro" in refused(run, "--goal", "f2")
    assert "does not exist" in refused(tmp_path / "s.parquet")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "manifest": str(tmp_path / "moved")}))
    assert "its manifest has moved; give --manifest" in refused(run)
    assert not (run / "calibration.json").exists()


def test_windows_and_explanations_are_calibrated_too(run, mini_packed, mini_manifest):
    video = Manifest.read(mini_manifest).video_path(40)
    raw = timeline(Tagger.from_pretrained(run, device="cpu"), video, window_s=1.0)
    made = calibrate(run, ScoredOn(mini_packed, "all", device="cpu", workers=0), method="platt").calibration
    tagger = Tagger.from_pretrained(run, device="cpu")
    after = timeline(tagger, video, window_s=1.0)
    assert after.scores == pytest.approx(made.apply(raw.scores), abs=1e-5)
    assert after.scores.shape[0] > 1
    assert tagger.thresholds == made.thresholds
    assert after.tags == tagger(video)
    best = explain(tagger, video, labels=after.tags.labels[:1], method="grad_cam").explanations[0]
    assert best.score == pytest.approx(after.tags.scores[0], abs=1e-5)
