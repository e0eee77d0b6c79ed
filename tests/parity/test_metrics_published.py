"""Metrics against the outputs of published evaluation code."""

import json
from pathlib import Path

import numpy as np
import pytest

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import label_ranks, pooled_average_precision, video_ranks
from reeltag.metrics.gap import gap_at_20
from reeltag.metrics.hit import hit_rate
from reeltag.metrics.pairs import pairs_of
from reeltag.metrics.streaming import Accumulator

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


@pytest.mark.parametrize("name", CASES[:3])
def test_youtube8m_in_three_batches_and_its_map_of_the_best_20(name):
    whole = record("youtube-8m__metrics")
    scores, targets = (np.array(whole["inputs"][name][key]) for key in ("scores", "labels"))
    theirs = whole["results"][name]["three_batches"]
    seen = Accumulator()
    for rows in np.array_split(np.arange(len(scores)), 3):
        seen.add(scores[rows], targets[rows])
    pairs = seen.pairs()
    assert METRICS["gap_at_20"](pairs, pairs.targets) == pytest.approx(theirs["gap"], rel=1e-12)
    # Their running mAP knows only the 20 best labels of each video; what is missed costs recall. Not `map_macro`.
    best = np.argsort(np.argsort(-scores, axis=1), axis=1) < 20
    found = []
    for label in np.flatnonzero(targets.any(axis=0)):
        kept = best[:, label]
        column = scores[kept, label], targets[kept, label] > 0

        def blocks(column=column):
            yield column

        found.append(pooled_average_precision(blocks, int(targets[:, label].sum())))
    assert np.mean(found) == pytest.approx(theirs["map_after_topk_sparsify"], rel=1e-12)
    assert np.mean(found) < METRICS["map_macro"](scores, targets)


def test_youtube8m_on_ties_depends_on_the_batches_and_ours_does_not():
    name, whole = "ties10_emptyclass_emptyrow", record("youtube-8m__metrics")
    scores, targets = (np.array(whole["inputs"][name][key]) for key in ("scores", "labels"))
    one, three = (whole["results"][name][key]["gap"] for key in ("one_batch", "three_batches"))
    assert one != pytest.approx(three, abs=1e-3)
    ours = METRICS["gap_at_20"](scores, targets)
    assert ours == pytest.approx(one, abs=0.03)  # as far as sharing a tie goes from drawing its order
    order = np.random.default_rng(0).permutation(len(scores))
    assert METRICS["gap_at_20"](scores[order], targets[order]) == ours


@pytest.mark.parametrize("name", CASES)
def test_torchmetrics_where_it_is_right(name):
    inputs, theirs = record("youtube-8m__metrics")["inputs"][name], record("torchmetrics__metrics")["results"][name]
    scores, targets = np.array(inputs["scores"]), np.array(inputs["labels"])
    labels, videos = targets.any(axis=0).mean(), targets.any(axis=1).mean()
    value = {metric: METRICS[metric](scores, targets) for metric in METRICS}
    # It counts labels without positives as 0, videos without labels as 0, and as 1 in LRAP. float32.
    expected = {
        "map_macro": theirs["MultilabelAveragePrecision_macro"] / labels,
        "map_micro": theirs["MultilabelAveragePrecision_micro"],
        "map_weighted": theirs["MultilabelAveragePrecision_weighted"],
        "coverage": theirs["MultilabelCoverageError"] / videos,
        "lrap": (theirs["MultilabelRankingAveragePrecision"] - (1 - videos)) / videos,
    }
    assert {metric: value[metric] for metric in expected} == pytest.approx(expected, rel=2e-6)
    ranking_loss = theirs["MultilabelRankingLoss"] / videos
    if name.startswith("ties"):  # it breaks ties by position, scikit-learn and we count them as errors
        assert value["ranking_loss"] > ranking_loss + 0.05
    else:
        assert value["ranking_loss"] == pytest.approx(ranking_loss, rel=2e-6)
    # Its average precision at 11 thresholds, which saves memory, is another number.
    assert abs(theirs["MultilabelAveragePrecision_macro_thresholds_11"] / labels - value["map_macro"]) < 0.1


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("ties")])
def test_overall_numbers_of_rml_cnn(name):
    inputs, theirs = record("youtube-8m__metrics")["inputs"][name], record("rml-cnn__metrics")["results"][name]
    scores, targets = np.array(inputs["scores"]), np.array(inputs["labels"])
    for ours, key in (("op_at_3", "po_top3"), ("or_at_3", "ro_top3"), ("of1", "f1o_top3")):
        # It adds 1.2e-7 to divisors, and sums in float32.
        assert 100 * METRICS[ours](scores, targets) == pytest.approx(theirs[key], rel=1e-5)
    if name == "clean":  # its mAP takes the best precision at any higher recall (interpolated), so it is larger
        assert theirs["mAP"] > 100 * METRICS["map_macro"](scores, targets) + 1


@pytest.mark.parametrize("name", CASES[:3])
def test_per_label_average_precision_of_wildcat(name):
    inputs, theirs = record("youtube-8m__metrics")["inputs"][name], record("wildcat.pytorch__metrics")["results"][name]
    scores, targets = np.array(inputs["scores"]), np.array(inputs["labels"])
    assert METRICS["map_macro"](scores, targets) == pytest.approx(theirs["mean_nonempty"], rel=1e-12)
