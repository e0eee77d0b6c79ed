"""Losses against the formulas of their papers, and against published code that differs from them."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of
from reeltag.losses.label_weights import label_weights
from reeltag.losses.lsep import lsep_of_pairs
from reeltag.losses.ranking import _hinges, first_violators, harmonic

RECORDS = Path(__file__).parent / "records"
CASES = ["degenerate_rows", "regular", "extreme_x25"]
L = 7


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())


DEFINITIONS = record("definitions__losses")
COUNTS = torch.tensor(DEFINITIONS["class_counts"], dtype=torch.float64)


def bce_weighted(power, inverse=False):
    return partial(LOSSES["bce"], weight=label_weights(COUNTS, power=power, inverse=inverse))


OURS = {
    "bce_mean": LOSSES["bce"],
    "bce_mean_x160": partial(LOSSES["bce"], scale=160),
    "bce_sum_over_classes_mean_over_rows": partial(LOSSES["bce"], scale=L),
    "bce_classweight_sqrt_Ni_over_Nmean": bce_weighted(0.5),
    "bce_classweight_Ni_over_Nmean": bce_weighted(1.0),
    "bce_classweight_inverse_sqrt (Nmean/Ni)^.5": bce_weighted(0.5, inverse=True),
    "bce_classweight_inverse Nmean/Ni": bce_weighted(1.0, inverse=True),
    "bce_posweight_sqrt_Nmean_over_Ni": partial(
        LOSSES["bce"], pos_weight=label_weights(COUNTS, power=0.5, inverse=True)
    ),
    "focal_gamma2_noalpha_mean": LOSSES["focal"],
    "focal_gamma2_alpha.25_mean (torchvision formula)": partial(LOSSES["focal"], alpha=0.25),
    "focal_gamma2_alpha.25_sum_over_classes_mean_rows": partial(LOSSES["focal"], alpha=0.25, scale=L),
    "lsep_rows_mean (0 for rows without pos or neg)": LOSSES["lsep"],
    "pairwise_hinge_sum_rows_mean (Gong eq: sum_j pos sum_k neg max(0,1-fj+fk))": LOSSES["pairwise_ranking"],
    "pairwise_hinge_normalised_by_pairs": partial(LOSSES["pairwise_ranking"], per_pair=True),
    "warp_exactrank_overall_1based (Gong: L(r) sum of all violating pairs)": LOSSES["warp"],
    "warp_exactrank_negatives_above_0based": partial(LOSSES["warp"], rank="absent"),
    "warp_rank_margin_violations": partial(LOSSES["warp"], rank="violators"),
    "warp_rank_margin_violations_div (Usunier/WSABIE expectation: L(r)/r * sum)": partial(
        LOSSES["warp"], rank="violators", divide=True
    ),
    "softmax_multilabel_normalised_rows_mean (empty rows 0)": LOSSES["softmax"],
    "bpmll_on_logits_rows_mean (0 for degenerate)": partial(LOSSES["bp_mll"], outputs="logits"),
    "bpmll_on_tanh_rows_mean (Zhang&Zhou use tanh outputs)": LOSSES["bp_mll"],
    "bpmll_on_sigmoid_rows_mean": partial(LOSSES["bp_mll"], outputs="sigmoid"),
    "torch.nn.MultiLabelSoftMarginLoss": LOSSES["bce"],
}


def inputs(case):
    found = DEFINITIONS["inputs"][case]
    logits = torch.tensor(found["logits"], dtype=torch.float64).requires_grad_()
    return logits, torch.tensor(found["targets"], dtype=torch.float64)


def value_and_gradient(loss, case):
    logits, targets = inputs(case)
    value = loss(logits, targets)
    value.backward()
    return value.item(), logits.grad.flatten().tolist()


def matches(theirs, rel):
    """Near a recorded value; of a gradient, entries far below the greatest one may be rounded away."""
    if isinstance(theirs, float):
        return pytest.approx(theirs, rel=rel)
    return pytest.approx(theirs, rel=rel, abs=1e-9 * max(map(abs, theirs)))


def test_every_formula_of_the_record_is_ours():
    for case in CASES:
        assert set(DEFINITIONS["results"][case]) == set(OURS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", OURS)
def test_values_and_gradients_of_the_papers(key, case):
    theirs = DEFINITIONS["results"][case][key]
    value, gradient = value_and_gradient(OURS[key], case)
    assert value == matches(theirs["loss"], 1e-6)
    assert gradient == matches(theirs["grad"], 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_learned_thresholds(case):
    whole = record("definitions__lsep_threshold_loss")
    theirs = whole["results"][case]
    scores, targets = inputs(case)
    thresholds = torch.tensor(whole["theta"], dtype=torch.float64).requires_grad_()
    loss = LOSSES["lsep_threshold"](thresholds, targets, scores=scores, scale=L)
    loss.backward()
    assert loss.item() == matches(theirs["sum_over_classes_mean_rows"], 1e-6)
    assert thresholds.grad.flatten().tolist() == matches(theirs["grad_theta_of_sum_form"], 1e-6)
    assert scores.grad is None  # the paper keeps the scores as they are
    mean = LOSSES["lsep_threshold"](thresholds, targets, scores=scores)
    assert mean.item() == matches(theirs["mean"], 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_lsep_of_the_authors_on_their_sampled_pairs(case):
    theirs = record("li_song_luo_2017__losses_sampled_pairs")["results"][case]
    pairs, out = torch.tensor(theirs["pairs_neg_pos"]), theirs["out"]
    value, gradient = value_and_gradient(lambda logits, _: lsep_of_pairs(logits, pairs).mean(), case)
    assert value == matches(out["mll_exp"]["loss"], 1e-6)
    assert gradient == matches(out["mll_exp"]["grad"], 1e-6)
    # Their BP-MLL forgets the mask: each padded pair adds exp(0).
    logits = inputs(case)[0].detach()
    apart = logits.gather(1, pairs[..., 0]) - logits.gather(1, pairs[..., 1])
    real = pairs[..., 0] != pairs[..., 1]
    assert out["mll_bp"]["loss"] == matches((apart.exp()[real].sum().item() + (~real).sum().item()) / 4, 1e-6)


def test_moments_models_weighs_every_positive_and_so_do_we():
    theirs = record("moments_models__losses")["results"]
    weight = COUNTS.min() / COUNTS
    for case in CASES:
        for key, loss in (("wlsep", LOSSES["wlsep"]), ("wlsep_weighted", partial(LOSSES["wlsep"], weight=weight))):
            value, gradient = value_and_gradient(loss, case)
            assert value == matches(theirs[case][key]["loss"], 1e-6)
            assert gradient == matches(theirs[case][key]["grad"], 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_moments_models_takes_one_logarithm_of_the_batch_and_does_not_divide_by_pairs(case):
    theirs = record("moments_models__losses")["results"][case]
    logits, targets = inputs(case)
    present = targets > 0
    pairs = [(n[:, None] - p).flatten() for n, p in ((r[~t], r[t]) for r, t in zip(logits, present, strict=True))]
    everything = torch.cat([*pairs, torch.zeros(1, dtype=torch.float64)])
    assert theirs["lsep"]["loss"] == matches(everything.logsumexp(0).item(), 1e-6)
    assert theirs["lsep"]["loss"] > 1.3 * LOSSES["lsep"](logits, targets).item()
    assert theirs["bp_mll"]["loss"] == matches(torch.cat(pairs).exp().sum().item() / 4, 1e-6)
    assert theirs["bp_mll"]["loss"] > 9 * LOSSES["bp_mll"](logits, targets, outputs="logits").item()


def test_moments_models_warp_is_no_number_where_a_clip_carries_every_label():
    theirs = record("moments_models__losses")["results"]
    assert theirs["degenerate_rows"]["warp"]["loss"] == "nan"
    assert "nan" in theirs["regular"]["warp"]["grad"]
    for rank in ("overall", "absent", "violators"):
        value, gradient = value_and_gradient(partial(LOSSES["warp"], rank=rank), "degenerate_rows")
        assert all(map(math.isfinite, [value, *gradient]))
        # Nor does a mean over the absent labels make their weights, taken from positions, ours.
        for divide in (False, True):
            ours = LOSSES["warp"](*inputs("regular"), rank=rank, divide=divide).item()
            assert abs(ours - theirs["regular"]["warp"]["loss"]) > 1


def test_warp_pytorch_weighs_by_the_logarithm_and_sums():
    theirs = record("WARP-Pytorch__losses")["results"]
    for case in CASES:
        logits, targets = inputs(case)
        clips, row, _, hinges = _hinges(logits, targets, 1.0, None)
        in_order = torch.arange(L, dtype=torch.float64).expand_as(hinges)
        first, trials = first_violators(hinges, clips.absent[row], in_order)
        ranks = (L - 1) // trials
        loss = (ranks.log() * first).sum()
        loss.backward()
        found = theirs[case]["warp_loss_sum_all_positives_negatives_in_index_order"]
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert found["grad"] == pytest.approx(logits.grad.flatten().tolist(), rel=1e-6, abs=1e-9)
        published = (harmonic(clips)[ranks] * first).sum().item()
        assert published > 1.2 * loss.item()


@pytest.mark.parametrize("case", CASES)
def test_rml_cnn_divides_by_twenty_and_adds_inside_the_logarithm(case):
    theirs = record("rml-cnn__losses")["results"][case]
    value, gradient = value_and_gradient(LOSSES["pairwise_ranking"], case)
    assert 20 * theirs["pairwise_ranking"]["loss"] == pytest.approx(value, rel=1e-6)
    assert [20 * x for x in theirs["pairwise_ranking"]["grad"]] == pytest.approx(gradient, rel=1e-6, abs=1e-9)
    logits, targets = inputs(case)
    shares = targets / (targets.sum(dim=1, keepdim=True) + 1e-7)
    capped = -(shares * (logits.softmax(dim=1) + 1e-7).log()).sum(dim=1).mean().item()
    assert theirs["ml_softmax"]["loss"] == pytest.approx(capped, rel=1e-5)  # the record is float32
    ours = LOSSES["softmax"](logits, targets).item()
    if case == "extreme_x25":
        assert ours > 4 * theirs["ml_softmax"]["loss"]
    else:
        assert ours == pytest.approx(theirs["ml_softmax"]["loss"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_youtube_8m(case):
    theirs = record("youtube-8m__losses")["results"][case]  # float32: 1e-6 of the greatest entry is its rounding
    value, gradient = value_and_gradient(partial(LOSSES["hinge"], scale=L), case)
    assert value == pytest.approx(theirs["HingeLoss b=1 (on logits)"]["loss"], rel=1e-6)
    assert gradient == pytest.approx(theirs["HingeLoss b=1 (on logits)"]["grad"], rel=1e-6, abs=1e-9)
    logits, targets = inputs(case)
    of_softmax, ours = theirs["SoftmaxLoss (on logits)"]["loss"], LOSSES["softmax"](logits, targets).item()
    assert of_softmax == "nan" if case == "extreme_x25" else of_softmax == pytest.approx(ours, rel=1e-6)
    p = logits.detach().sigmoid()
    added = -(targets * (p + 1e-5).log() + (1 - targets) * (1 - p + 1e-5).log()).sum(dim=1).mean().item()
    of_cross_entropy = theirs["CrossEntropyLoss(sigmoid(logits)) eps1e-5"]["loss"]
    assert of_cross_entropy == pytest.approx(added, rel=1e-4)  # 1 - p + 1e-5 in float32
    ours = LOSSES["bce"](logits, targets, scale=L).item()
    if case == "extreme_x25":
        assert ours > 3.3 * of_cross_entropy
    else:
        assert ours == pytest.approx(of_cross_entropy, rel=3e-4)


def test_bp_mll_tensorflow_is_no_number_on_clips_without_pairs():
    theirs = record("bp-mll-tensorflow__losses")["results"]
    for outputs in ("logits", "sigmoid"):
        key = f"bp_mll_on_{outputs}"
        loss = partial(LOSSES["bp_mll"], outputs=outputs)
        value, gradient = value_and_gradient(loss, "regular")
        assert value == pytest.approx(theirs["regular"][key]["loss"], rel=1e-6)
        assert gradient == pytest.approx(theirs["regular"][key]["grad"], rel=1e-5, abs=1e-6)  # theirs is float32
        assert theirs["degenerate_rows"][key]["loss"] == "nan"
        value, gradient = value_and_gradient(loss, "degenerate_rows")
        assert all(map(math.isfinite, [value, *gradient]))


@pytest.mark.parametrize("case", CASES)
def test_c2ae_takes_exp_of_the_difference_of_means(case):
    (theirs,) = record("C2AE-Multilabel-Classification__losses")["results"][case].values()
    logits, targets = inputs(case)
    total = 0.0
    for p, t in zip(logits.detach().sigmoid(), targets > 0, strict=True):
        if t.any() and not t.all():
            slip = (~t).sum() / t.sum()
            total += (slip * (p[~t].mean() - p[t].mean()).exp()).item()
    assert theirs["loss"] == pytest.approx(total, rel=1e-6)
    assert theirs["loss"] > 7 * LOSSES["bp_mll"](logits, targets, outputs="sigmoid").item()


def test_a_clamped_focal_loss_gives_no_gradient_where_it_is_most_wrong():
    logits = torch.tensor([[-40.0]], dtype=torch.float64, requires_grad=True)
    p = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    copied = -((1 - p) ** 2 * p.log()).sum()
    assert torch.autograd.grad(copied, logits)[0].item() == 0
    ours = LOSSES["focal"](logits, torch.ones(1, 1))
    assert ours.item() == pytest.approx(40, rel=1e-12)
    assert torch.autograd.grad(ours, logits)[0].item() == pytest.approx(-1, rel=1e-12)


def test_asymmetric_of_the_authors_sums_and_holds_its_focus_constant():
    logits, targets = inputs("regular")
    p = logits.sigmoid()
    given = torch.where(targets > 0, p, (1.05 - p).clamp(max=1))
    focus = (1 - given) ** torch.where(targets > 0, 1.0, 4.0)
    theirs = -(focus.detach() * given.clamp(min=1e-8).log()).sum()
    ours = LOSSES["asymmetric"](logits, targets, gamma_present=1, scale=logits.numel())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    held, full = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (theirs, ours))
    assert (full[targets > 0] < held[targets > 0]).all()  # the focus falls with p: the whole slope is steeper
    assert full.abs().sum() > 1.5 * held.abs().sum()


def test_torchvision_mixes_probabilities_where_targets_are_soft():
    logits, targets = inputs("regular")
    for truth, equal in ((targets, True), (0.8 * targets + 0.1, False)):
        p = logits.sigmoid()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        theirs = ((1 - (p * truth + (1 - p) * (1 - truth))) ** 2 * entropy).mean().item()
        ours = LOSSES["focal"](logits, truth).item()
        assert (ours == pytest.approx(theirs, rel=1e-12)) == equal
        assert equal or ours > 1.05 * theirs


def test_copied_versions_of_lsep_and_warp_differ():
    logits, targets = inputs("regular")
    clips = clips_of(logits, targets, None)
    apart = logits[:, None, :] - logits[:, :, None]  # (B, L, L)
    pair = clips.absent[:, None, :] & clips.present[:, :, None]
    most = apart.amax(dim=(1, 2))[:, None]  # (B, 1)
    rest = ((apart - most[:, :, None]).exp() * pair).sum(dim=(1, 2))  # (B,)
    column_plus_row = (most + ((-most).exp() + rest).log()).mean()  # (B, B): the slip of "lsep_loss_stable"
    assert column_plus_row.item() == pytest.approx(4.2938, abs=5e-5)
    assert LOSSES["lsep"](logits, targets).item() == pytest.approx(4.2463, abs=5e-5)
    # 1/i + 1 grows with the rank itself, 1 + 1/2 + ... + 1/i with its logarithm.
    slip = sum(1 / i + 1 for i in range(1, L + 1))
    assert slip == pytest.approx(harmonic(clips)[L].item() + L, rel=1e-12)
