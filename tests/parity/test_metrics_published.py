"""Metrics against the outputs of published evaluation code."""

import json
from pathlib import Path

import numpy as np
import pytest

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import label_ranks, video_ranks
from reeltag.metrics.gap import gap_at_20
from reeltag.metrics.hit import hit_rate
from reeltag.metrics.pairs import pairs_of

RECORDS = Path(__file__).parent / "records"
CASES = ["clean", "noties_emptyclass", "noties_emptyclass_emptyrow", "ties10_emptyclass_emptyrow", "small_C7"]


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())


@pytest.fixture(scope="module", params=CASES)
def youtube8m(request):
    whole = record("youtube-8m__metrics")
    inputs = whole["inputs"][request.param]
    return request.param, np.array(inputs["scores"]), np.array(inputs["labels"]), whole["results"][request.param]


def test_youtube8m(youtube8m):
    name, scores, targets, results = youtube8m
    theirs = results["one_batch"]
    labelled = targets.any(axis=1).mean()  # their code counts a video without labels as a miss
    if "ties" in name.split("_")[0]:
        # They break ties at random and by index; each of our values shares or loses a tie.
        assert hit_rate(pairs_of(scores, targets), 1) * labelled <= theirs["hit_at_one"]
        assert METRICS["gap"](scores, targets) == pytest.approx(theirs["gap_at_all"], abs=0.03)  # random ties
        return
    assert METRICS["hit_at_1"](scores, targets) * labelled == pytest.approx(theirs["hit_at_one"], rel=1e-12)
    assert METRICS["gap"](scores, targets) == pytest.approx(theirs["gap_at_all"], rel=1e-12)
    assert METRICS["gap_at_20"](scores, targets) == pytest.approx(theirs["gap_at_20"], rel=1e-12)
    assert gap_at_20(scores, targets, k=5) == pytest.approx(theirs["gap_at_5"], rel=1e-12)
    assert METRICS["map_macro"](scores, targets) == pytest.approx(theirs["map_dense_filter_empty"], rel=1e-12)
    assert METRICS["perr"](scores, targets) * labelled == pytest.approx(theirs["perr"], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_scikit_learn(name):
    inputs, theirs = record("youtube-8m__metrics")["inputs"][name], record("scikit-learn__metrics")["results"][name]
    scores, targets = np.array(inputs["scores"]), np.array(inputs["labels"])
    expected = {
        "map_macro": theirs["macro_over_nonempty_classes"],
        "map_micro": theirs["average_precision_micro"],
        "map_weighted": theirs["average_precision_weighted"],
        "map_samples": theirs["samples_over_nonempty_rows"],
    }
    assert {key: METRICS[key](scores, targets) for key in expected} == pytest.approx(expected, rel=1e-12)
    rows = targets.any(axis=1)
    for key, list_name in (
        ("coverage", "coverage_per_row"),
        ("ranking_loss", "rankloss_per_row"),
        ("lrap", "lrap_per_row"),
    ):
        assert METRICS[key](scores, targets) == pytest.approx(np.mean(np.array(theirs[list_name])[rows]), rel=1e-12), (
            key
        )
    pairs = pairs_of(scores, targets)
    np.testing.assert_allclose(
        np.nan_to_num(label_ranks(pairs).average_precision), theirs["average_precision_per_class"], rtol=1e-12
    )
    np.testing.assert_allclose(
        np.nan_to_num(video_ranks(pairs).average_precision), theirs["average_precision_per_row"], rtol=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_x_temporal_counts_a_video_without_labels_as_zero(name):
    inputs, theirs = record("youtube-8m__metrics")["inputs"][name], record("X-Temporal__metrics")["results"][name]
    scores, targets = np.array(inputs["scores"]), np.array(inputs["labels"])
    value = 100 * METRICS["map_samples"](scores, targets) * targets.any(axis=1).mean()
    assert value == pytest.approx(theirs["calculate_mAP_x100"], rel=1e-12)


def test_multi_moments_map_of_x_temporal_and_mmaction2():
    x_temporal, mmaction2 = record("xtemporal__mAP"), record("mmaction2__mAP")
    scores, targets = np.array(x_temporal["scores"]), np.array(x_temporal["labels"])
    assert METRICS["map_macro"](scores, targets) == pytest.approx(mmaction2["mean_average_precision"], rel=1e-12)
    assert METRICS["map_samples"](scores, targets) == pytest.approx(mmaction2["mmit_rows_with_positives"], rel=1e-12)
    assert METRICS["map_micro"](scores, targets) == pytest.approx(x_temporal["micro_AP"], rel=1e-12)
    samples = video_ranks(pairs_of(scores, targets)).average_precision
    np.testing.assert_allclose(np.nan_to_num(samples), x_temporal["per_sample_ap"], rtol=1e-12)
    ties = x_temporal["ties"]
    column = np.array(ties["scores"])[:, None], np.array(ties["labels"])[:, None]
    assert METRICS["map_macro"](*column) == pytest.approx(ties["ap"], rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_the_best_k_of_gong_and_of_li_song_and_luo(name, k):
    inputs = record("youtube-8m__metrics")["inputs"][name]
    theirs = record("gong2013__topk_precision_recall")["results"][name][f"k={k}"]
    # They give a place to the first of equal scores, where we share it among them.
    scores = np.array(inputs["scores"]) - 1e-9 * np.arange(len(inputs["scores"][0]))
    targets = np.array(inputs["labels"])
    ours = {metric: METRICS[metric](scores, targets, k=k) for metric in ("cp_at_3", "cr_at_3", "op_at_3", "or_at_3")}
    share = targets.any(axis=0).mean()  # they count a label without positives as 0, we leave it out
    expected = {
        "cp_at_3": theirs["zero_div_0"]["CP"] / share,
        "cr_at_3": theirs["skip_undefined"]["CR"],
        "op_at_3": theirs["OP"],
        "or_at_3": theirs["OR"],
    }
    assert ours == pytest.approx(expected, rel=1e-12)
    assert METRICS["of1"](scores, targets, k=k) == pytest.approx(theirs["OF1"], rel=1e-12)
    assert ours["cr_at_3"] * share == pytest.approx(theirs["zero_div_0"]["CR"], rel=1e-12)
    if targets.any(axis=0).all():  # then the harmonic mean is theirs too
        cf1 = METRICS["cf1"](scores, targets, k=k)
        assert cf1 == pytest.approx(theirs["zero_div_0"]["CF1_of_means"], rel=1e-12)
