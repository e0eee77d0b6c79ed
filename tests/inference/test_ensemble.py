"""Late fusion of scores: numbers by hand, videos that a member lacks, weights, and what each member carries."""

import itertools
import json

import numpy as np
import pytest

from reeltag.cli import app, main
from reeltag.errors import StoreError, UnknownName
from reeltag.inference.ablation import ablation
from reeltag.inference.ensemble import Ensemble, Member, fuse, list_ensembles
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.ensemble_weights import search_weights
from reeltag.metrics import METRICS
from reeltag.recipe import list_recipes
from reeltag.store.scores import Scores


def scores(values, ids=None, *, name="", kind="probability", targets=None, covered=None, labels=None, **fields):
    values = np.array(values, dtype=np.float32)
    return Scores(
        video_ids=ids or [f"v{i}" for i in range(len(values))],
        values=values,
        label_names=labels or list("abcdefgh"[: values.shape[1]]),
        kind=kind,
        targets=None if targets is None else np.array(targets, dtype=np.uint8),
        covered=None if covered is None else np.array(covered),
        weights_hash=name,
        split="val",
        **fields,
    )


def of_two(first=1.0, second=1.0, **options):
    return Ensemble(members=[Member(name="rgb", weight=first), Member(name="audio", weight=second)], **options)


RGB = scores([[0.8, 0.2], [0.4, 0.6]])
AUDIO = scores([[0.2, 0.4], [0.8, 0.0]])


def test_the_weighted_mean_by_hand():
    found = of_two(3.0, 1.0).apply([("rgb", RGB), ("audio", AUDIO)])
    np.testing.assert_allclose(found.values, [[0.65, 0.25], [0.5, 0.45]], rtol=1e-6)
    assert found.covered is None
    assert found.kind == "probability"
    # Weights need not sum to 1: any other multiple gives the same scores (RippleAI 2019 states ones that sum to 2.70).
    other = of_two(0.3, 0.1).apply([("rgb", RGB), ("audio", AUDIO)])
    np.testing.assert_allclose(other.values, found.values, rtol=1e-6)


def test_the_mean_of_logits_by_hand():
    found = of_two(of="logits").apply([("rgb", RGB), ("audio", scores([[0, 0], [2, -2]], kind="logit"))])
    # Odds 4 and 1: their geometric mean is 2. Odds 2/3 and e^2; 3/2 and e^-2.
    odds = np.sqrt([[4 * 1, 0.25 * 1], [2 / 3 * np.exp(2), 1.5 * np.exp(-2)]])
    np.testing.assert_allclose(found.values, odds / (1 + odds), rtol=1e-5)


def test_videos_are_matched_by_id_and_a_member_without_one_is_left_out():
    silent = scores([[0.9, 0.9], [0.0, 0.1], [0.6, 0.8]], ["v1", "v2", "v0"], covered=[False, True, True])
    found = of_two(1.0, 3.0, label_shares=[0.3, 0.1]).apply([("rgb", RGB), ("audio", silent)])
    assert found.video_ids == ["v0", "v1", "v2"]
    # v0 by both, v1 by rgb alone (its sound is silent), v2 by audio alone.
    np.testing.assert_allclose(found.values, [[0.65, 0.65], [0.4, 0.6], [0.0, 0.1]], rtol=1e-6)
    nothing = of_two(label_shares=[0.3, 0.1]).apply([("rgb", RGB), ("audio", silent)], without=["rgb"])
    np.testing.assert_allclose(nothing.values, [[0.6, 0.8], [0.3, 0.1], [0.0, 0.1]], rtol=1e-6)
    assert nothing.covered.tolist() == [True, False, True]


def test_members_of_no_weight_speak_where_no_other_does():
    values = np.array([[[0.2], [0.4]], [[0.6], [0.8]]])
    covered = np.array([[True, False], [True, True]])
    fused, known = fuse(values, covered, np.array([1.0, 0.0]))
    np.testing.assert_allclose(fused, [[0.2], [0.8]])
    assert known.all()


def test_scores_that_do_not_belong_together_are_refused():
    pair = of_two()
    truth, other = scores([[0, 1]], targets=[[0, 1]]), scores([[0, 1]], targets=[[1, 1]])
    with pytest.raises(StoreError, match="rgb and audio hold different truth of video 'v0'"):
        pair.apply([("rgb", truth), ("audio", other)])
    with pytest.raises(StoreError, match="label sets differ"):
        pair.apply([("rgb", RGB), ("audio", scores([[0, 1]], labels=["a", "x"]))])
    with pytest.raises(StoreError, match=r"the ensemble has 2 members \(rgb, audio\), and 1 score files are given"):
        pair.apply([("rgb", RGB)])
    test = Scores(["v0"], RGB.values[:1], ["a", "b"], "probability", split="test")
    with pytest.raises(StoreError, match="rgb holds scores of 'val', audio of 'test'"):
        pair.apply([("rgb", RGB), ("audio", test)])
    with pytest.raises(StoreError, match="was fitted on 2 labels and these scores have 2, or in another order"):
        of_two(label_names=["b", "a"]).apply([("rgb", RGB), ("audio", AUDIO)])


def test_members_are_known_by_the_hash_of_their_weights():
    rgb, audio = scores([[0.8]], name="r"), scores([[0.2]], name="s")
    fitted = fit_ensemble([("rgb", rgb), ("audio", audio)])
    assert fitted.label_shares is None
    assert fitted.apply([("x", audio), ("y", rgb)]).values.item() == pytest.approx(0.5)
    assert fitted.apply([("audio", audio)]).values.item() == pytest.approx(0.2)  # without its pictures
    new = scores([[0.6]], name="new")
    with pytest.raises(StoreError, match="new holds scores of weights new, which are no member's: rgb r, audio s"):
        fitted.apply([("new", new), ("audio", audio)])
    assert fitted.apply([("new", new), ("audio", audio)], by_place=True).values.item() == pytest.approx(0.4)


def three(num_videos=200, seed=0):
    """Three members: one knows the even labels, one the odd ones, one nothing."""
    draw = np.random.default_rng(seed)
    targets = (draw.random((num_videos, 6)) < 0.3).astype(np.uint8)
    made = []
    for columns in ((0, 2, 4), (1, 3, 5), ()):
        skill = np.isin(np.arange(6), columns) * 2.0
        logits = skill * (targets - 0.3) + draw.standard_normal(targets.shape)
        made.append(scores(logits, kind="logit", targets=targets, name=str(len(made))))
    return list(zip(("rgb", "audio", "noise"), made, strict=True)), targets


def test_fitted_weights_are_near_the_best_of_a_grid():
    members, targets = three()
    found = fit_ensemble(members, method="weighted")
    measure = METRICS["map_macro"]
    probabilities = np.stack([own.probabilities() for _, own in members])
    grid = itertools.product(np.linspace(0, 1, 9), repeat=3)
    best = max(measure(np.tensordot(np.array(w), probabilities, 1), targets) for w in grid if any(w))
    assert found.fitted["map_macro"] > best - 0.002
    assert found.fitted["map_macro"] > found.fitted["mean"] + 0.01
    weights = [member.weight for member in found.members]
    assert weights[2] < 0.2 * min(weights[:2])
    assert found.fitted["alone: 2 audio"] == pytest.approx(measure(probabilities[1], targets))
    again = found.apply(members)
    assert measure(again.values, targets) == pytest.approx(found.fitted["map_macro"], abs=1e-6)
    assert fit_ensemble(members, method="weighted") == found  # nothing is drawn
    assert fit_ensemble(members, method="weighted", metric="gap").fitted["gap"] > 0


def test_the_search_climbs_a_hill_by_its_steps():
    def hill(weights):
        return -np.abs(weights - np.array([1.0, 0.3125])).sum()

    weights, value = search_weights(hill, np.ones(2))
    assert weights.tolist() == [1.0, 0.3125]
    assert value == 0
    assert search_weights(lambda weights: 0.0, np.array([0.0, 0.5]))[0].tolist() == [0.0, 1.0]  # no gain, no step


def test_no_truth_no_weights():
    with pytest.raises(StoreError, match="some videos have no truth, so no weights can be fitted"):
        fit_ensemble([("rgb", RGB), ("audio", AUDIO)], method="weighted")
    with pytest.raises(ValueError, match="metric must be one of map_macro, map_samples, gap, got 'ranking_loss'"):
        fit_ensemble([("rgb", RGB)], metric="ranking_loss")


def test_an_ablation_says_what_each_carries():
    members, targets = three()
    made = fit_ensemble(members[:2])
    groups = {"seen": ["a", "c", "e"], "heard": ["b", "d", "f"]}
    rows = {row.what: row for row in ablation(made, members[:2], groups=groups)}
    assert list(rows) == ["all", "without rgb", "without audio", "rgb alone", "audio alone"]
    assert rows["without rgb"].values == rows["audio alone"].values
    mean = (members[0][1].probabilities() + members[1][1].probabilities()) / 2
    assert rows["all"].values["map_macro"] == pytest.approx(METRICS["map_macro"](mean, targets), abs=1e-6)
    heard = METRICS["map_macro"](members[0][1].values[:, 1::2], targets[:, 1::2])
    assert rows["without audio"].groups["heard"] == pytest.approx(heard, abs=1e-6)
    assert rows["without audio"].groups["heard"] < rows["all"].groups["heard"] - 0.2
    assert rows["without audio"].groups["seen"] > rows["all"].groups["seen"]
    with pytest.raises(StoreError, match="the group 'x' has the label 'z'"):
        ablation(made, members[:2], groups={"x": ["z"]})


def test_members_of_one_name_go_together():
    members, _ = three()
    named = [("rgb", members[0][1]), ("audio", members[1][1]), ("rgb", members[2][1])]
    made = fit_ensemble(named)
    rows = {row.what: row for row in ablation(made, named)}
    assert list(rows) == ["all", "without rgb", "without audio", "rgb alone", "audio alone"]
    expected = METRICS["map_macro"](members[1][1].values, members[1][1].targets)
    assert rows["without rgb"].values["map_macro"] == pytest.approx(expected)
    assert rows["without rgb"].covered == 1


@pytest.fixture
def files(tmp_path):
    members, targets = three()
    for name, own in members:
        own.write(tmp_path / name / "scores" / "val.parquet")
    return tmp_path, targets


def test_fit_and_apply_from_the_command_line(files, capsys):
    folder, targets = files
    given = [f"{name}={folder / name}" for name in ("rgb", "audio")]
    app(["ensemble", "fit", *given, "--out", str(folder / "e.json"), "--method", "weighted"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "map_macro of the ensemble 0." in shown
    made = Ensemble.read(folder / "e.json")
    assert [member.name for member in made.members] == ["rgb", "audio"]
    (folder / "groups.json").write_text(json.dumps({"heard": ["b", "d", "f"]}))
    call = ["ensemble", "apply", str(folder / "e.json"), *given, "--out", str(folder / "fused.parquet"), "--ablate"]
    app([*call, "--groups", str(folder / "groups.json"), "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["videos"], facts["covered"]) == (200, 200)
    fused = Scores.read(folder / "fused.parquet")
    assert facts["values"]["map_macro"] == pytest.approx(METRICS["map_macro"](fused.values, targets))
    assert facts["values"]["map_macro"] == pytest.approx(made.fitted["map_macro"], abs=1e-6)
    assert [row["what"] for row in facts["ablation"]][1] == "without rgb"
    assert "heard" in facts["ablation"][0]["groups"]
    app(call[:-1], standalone_mode=False)
    assert "200 videos, 200 covered by a member" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "rgb={f}/rgb", "--out", "{f}/e.json", "--metric", "hamming"], "--metric 'hamming' is none of map_mac"),
        (["apply", "{f}/none.json", "{f}/rgb"], "There is no ensemble file"),
        (["apply", "{f}/rgb/scores/val.parquet", "{f}/rgb"], "is no ensemble"),
        (["fit", "{f}/nothing.parquet", "--out", "{f}/e.json"], "nothing.parquet does not exist"),
    ],
)
def test_bad_calls_end_with_2_and_one_line(files, monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["reeltag", "ensemble", *(word.format(f=files[0]) for word in words)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", list_ensembles())
def test_shipped_ensembles_name_shipped_recipes_and_their_figure(name):
    shipped = Ensemble.read(name)
    assert shipped.source.reported
    assert {member.recipe for member in shipped.members if member.recipe} <= set(list_recipes())
    assert len(shipped.members) > 1


def test_ensembles_are_found_by_name():
    with pytest.raises(UnknownName, match="no.*'rippleai2019/tabel1'.*Did you mean 'rippleai2019/table1'"):
        Ensemble.read("rippleai2019/tabel1")
    weights = [member.weight for member in Ensemble.read("rippleai2019/table1").members]
    assert sum(weights) == pytest.approx(2.6972)


def test_shipped_ensembles_are_listed_with_their_rows(capsys):
    app(["list", "ensembles", "alibaba2019/*", "--long", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == [f"alibaba2019/{name}" for name in ("all", "audio", "flow", "rgb")]
    assert found[1]["row"] == "Table 1, Ensemble, Audio"


def test_evidence_is_what_a_member_adds_to_what_it_says_on_average():
    first = scores([[1.0], [-1.0], [3.0]], kind="logit", targets=[[1], [0], [1]])
    second = scores([[2.0], [0.0], [9.0]], kind="logit", targets=[[1], [0], [1]], covered=[True, True, False])
    made = fit_ensemble([("rgb", first), ("audio", second)], of="evidence")
    assert made.evidence is not None
    np.testing.assert_allclose(made.evidence.centers, [[1.0], [1.0]], rtol=1e-6)
    found = made.apply([("rgb", first), ("audio", second)], by_place=True)
    logits = np.log(found.values / (1 - found.values)).ravel()
    np.testing.assert_allclose(logits - logits[0], [0, -4, 1], atol=1e-5)  # 0 + 1, -2 - 1, and 2 alone
    assert found.values.mean() == pytest.approx(2 / 3, abs=1e-6)  # the share of the label
    alone = made.apply([("rgb", first), ("audio", second)], by_place=True, without=["audio"])
    logits = np.log(alone.values / (1 - alone.values)).ravel()
    np.testing.assert_allclose(logits - logits[0], [0, -2, 2], atol=1e-5)


def test_evidence_is_not_moved_by_a_member_that_is_absent():
    """The clips with sound hold a label at other logits than those without: a mean puts the latter first."""
    draw = np.random.default_rng(1)
    targets = (draw.random((300, 3)) < 0.2).astype(np.uint8)
    blind = scores(np.full((300, 3), -1.4) + 0.1 * draw.standard_normal((300, 3)), kind="logit", targets=targets)
    logits = 4.0 * targets - 6 + 0.5 * draw.standard_normal((300, 3))
    hears = scores(logits, kind="logit", targets=targets, covered=draw.random(300) < 0.5)
    pair, metric = [("rgb", blind), ("audio", hears)], METRICS["map_macro"]
    by = {of: metric(fit_ensemble(pair, of=of).apply(pair, by_place=True).values, targets) for of in
          ("logits", "evidence")}  # fmt: skip
    assert by["evidence"] > by["logits"] + 0.03
    for name in ("map_macro", "gap"):
        found = fit_ensemble(pair, of="evidence", method="weighted", metric=name)
        again = METRICS[name](found.apply(pair, by_place=True).values, targets)
        assert found.fitted[name] == pytest.approx(again, abs=1e-5)
        assert found.fitted[name] >= found.fitted["mean"]


def test_evidence_without_truth_and_of_labels_that_nobody_carries():
    made = fit_ensemble([("rgb", RGB), ("audio", AUDIO)], of="evidence")
    found = made.apply([("rgb", RGB), ("audio", AUDIO)], by_place=True)
    np.testing.assert_allclose(found.values.mean(0), [0.55, 0.3], atol=1e-3)  # the mean of what the two say
    never = [("rgb", scores([[0.1], [0.2]], targets=[[0], [0]])), ("audio", scores([[0.3], [0.3]]))]
    values = fit_ensemble(never[:1], of="evidence").apply(never[:1], by_place=True).values
    assert 0 < values[0] < values[1] < 0.5
    with pytest.raises(ValueError, match="go together"):
        Ensemble(of="evidence", members=[Member(name="rgb")])


def test_evidence_needs_a_video_that_somebody_covers_and_takes_a_single_one():
    nobody = scores([[0.5, 0.5]], targets=[[1, 0]], covered=[False])
    with pytest.raises(StoreError, match="no member covers any video"):
        fit_ensemble([("rgb", nobody)], of="evidence")
    one = [("rgb", scores([[0.9, 0.2]], targets=[[1, 0]]))]
    values = fit_ensemble(one, of="evidence", method="weighted").apply(one, by_place=True).values
    np.testing.assert_allclose(values, [[0.75, 0.25]], atol=1e-6)  # half a video away from 1 and 0
    made = fit_ensemble(one, of="evidence")
    with pytest.raises(ValueError, match=r"of \(1, 2\) members and labels, and the ensemble of \(1, 1\)"):
        Ensemble.model_validate({**made.model_dump(), "label_names": ["a"]})
