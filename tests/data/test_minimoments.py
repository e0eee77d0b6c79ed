"""Tests of MiniMoments: the plan's counts, the rules against leaks, and the files, the same every time."""

import csv
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reeltag.data.minimoments import (
    GROUPS,
    LABELS,
    MIRRORS,
    PARTNERS,
    REVERSALS,
    ClipPlan,
    compose_clip,
    plan_clips,
    render_clip,
    write_minimoments,
)
from reeltag.data.minimoments.plan import DECOYS
from reeltag.data.minimoments.sound import RATE_HZ, synthesise
from reeltag.data.minimoments.sprites import HUES_DEG, NEUTRALS, paste, sprite
from reeltag.errors import ReeltagError

SEED = 7


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    return plan_clips(2000, 400, 400, seed=SEED)


def _split(plans: list[ClipPlan], split: str) -> list[ClipPlan]:
    return [plan for plan in plans if plan.split == split]


def _counts(plans: list[ClipPlan]) -> dict[str, int]:
    found = Counter(label for plan in plans for label in plan.labels)
    return {label: found[label] for label in LABELS}


# --- labels ---------------------------------------------------------------------------------------------------------


def test_there_are_thirty_labels_in_five_groups():
    assert {name: len(labels) for name, labels in GROUPS.items()} == {
        "appearance": 8, "motion": 8, "order": 4, "sound": 6, "scene": 4,
    }  # fmt: skip
    assert len(set(LABELS)) == 30
    assert all(label.startswith(f"{group}_") for group, labels in GROUPS.items() for label in labels)


def test_swaps_undo_themselves_and_stay_in_their_group():
    for swap in (REVERSALS, *MIRRORS.values()):
        assert all(swap[swap[label]] == label != swap[label] for label in swap)
        assert all(label.split("_")[0] == other.split("_")[0] for label, other in swap.items())
    turn = {"motion_clockwise", "motion_counter_clockwise"}
    assert set(MIRRORS["horizontal"]) == {"motion_left", "motion_right"} | turn
    assert set(MIRRORS["vertical"]) == {"motion_up", "motion_down"} | turn
    assert set(REVERSALS) == {*GROUPS["motion"], "order_a_before_b", "order_b_before_a"}


# --- plan -----------------------------------------------------------------------------------------------------------


def test_clips_carry_one_to_four_labels_and_names_are_unique(plans):
    assert set(Counter(len(plan.labels) for plan in plans)) == {1, 2, 3, 4}
    assert len({plan.video_id for plan in plans}) == len(plans) == 2800
    assert len({plan.index for plan in plans}) == 2800
    assert all(len(set(plan.labels)) == len(plan.labels) for plan in plans)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_forty_percent_have_no_sound_track(plans, split):
    clips = _split(plans, split)
    assert sum(plan.sound is None for plan in clips) == 0.4 * len(clips)
    assert sum(plan.sound == "background" for plan in clips) == pytest.approx(0.15 * len(clips), abs=1)


def test_the_long_tail_lies_in_appearance_sound_and_scene_of_train(plans):
    counts = _counts(_split(plans, "train"))
    for group, labels in GROUPS.items():
        of_group = [counts[label] for label in labels]
        if group in ("appearance", "sound", "scene"):
            assert 18 <= of_group[0] / of_group[-1] <= 22
            assert of_group == sorted(of_group, reverse=True)
        else:
            assert len(set(of_group)) == 1
            assert 0.07 <= of_group[0] / 2000 <= 0.08


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_and_test_have_no_tail_and_enough_positives(plans, split):
    counts = _counts(_split(plans, split))
    assert min(counts.values()) >= 25
    for labels in GROUPS.values():
        of_group = [counts[label] for label in labels]
        assert max(of_group) - min(of_group) <= 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_decoys_are_as_frequent_as_order_labels(plans, split):
    kinds = Counter(plan.order for plan in _split(plans, split))
    for labels, decoys in ((GROUPS["order"][:2], ["appears", "vanishes", "blinks"]), (GROUPS["order"][2:], ["a_b_a",
                           "b_a_b", "together"])):  # fmt: skip
        assert sum(kinds[d] for d in decoys) == pytest.approx(sum(kinds[label] for label in labels), abs=4)
    assert kinds["appears"] == pytest.approx(kinds["vanishes"], abs=2)
    assert kinds["a_b_a"] == pytest.approx(kinds["b_a_b"], abs=2)
    assert set(kinds) == {None, *DECOYS, *GROUPS["order"]}


def test_scenes_and_sounds_prefer_their_partners_and_nothing_tells_motion_or_order(plans):
    train = _split(plans, "train")
    has = {label: np.array([label in plan.labels for plan in train]) for label in LABELS}

    def surprise(a: str, b: str) -> float:
        """Clips with both beyond what chance gives, in standard deviations."""
        expected = len(train) * has[a].mean() * has[b].mean()
        return float(((has[a] & has[b]).sum() - expected) / np.sqrt(expected))

    for label, partners in PARTNERS.items():
        together = np.any([has[partner] for partner in partners], 0)
        assert (together & has[label]).mean() > 1.15 * together.mean() * has[label].mean(), label
    for label, other in itertools.product(GROUPS["motion"] + GROUPS["order"], LABELS):
        if label.split("_")[0] != other.split("_")[0] and has[other].sum() > 120:  # 9 or more expected together
            assert abs(surprise(label, other)) < 3.5, (label, other)  # the largest of some 250 is expected near 3
    assert surprise("appearance_disc", "scene_bricks") > 3.5


def test_motion_of_val_and_test_comes_in_twins_that_are_each_others_reversal(plans):
    test = {plan.index: plan for plan in _split(plans, "test")}
    twins = [plan for plan in test.values() if plan.reverse]
    assert len(twins) == 4 * 30
    for twin in twins:
        other = test[twin.picture_index]
        assert not other.reverse
        assert twin.motion == REVERSALS[other.motion]
        assert twin.pair == other.pair == "/".join(sorted([twin.motion, other.motion]))
        assert (twin.appearances, twin.scene) == (other.appearances, other.scene)
        assert twin.order == (REVERSALS.get(other.order, other.order) if other.order not in DECOYS else twin.order)
    assert not any(plan.reverse for plan in _split(plans, "train"))


def test_a_split_does_not_depend_on_the_size_of_another(plans):
    assert _split(plan_clips(10, 0, 400, seed=SEED), "test") == _split(plans, "test")
    assert plan_clips(10, 0, 0, seed=SEED) != plan_clips(10, 0, 0, seed=SEED + 1)


@pytest.mark.parametrize("num_clips", [0, 1, 2, 7, 40, 100])
def test_any_number_of_clips_can_be_planned(num_clips):
    clips = plan_clips(num_clips, 0, num_clips, seed=SEED, tail=1)
    assert len(clips) == 2 * num_clips
    assert all(1 <= len(plan.labels) <= 4 for plan in clips)


# --- rules against leaks --------------------------------------------------------------------------------------------


def _tracks(motion: str | None, num_clips: int, first: int = 0) -> np.ndarray:
    """(clips, T, 4) of clips that differ in nothing but their seed and the motion."""
    plans = [ClipPlan(i, i, "train", motion=motion) for i in range(first, first + num_clips)]
    return np.stack([compose_clip(plan, SEED).track for plan in plans])


@pytest.fixture(scope="module")
def resting_tracks() -> np.ndarray:
    return _tracks(None, 1500, first=5000)


@pytest.mark.parametrize("motion", GROUPS["motion"])
def test_one_frame_is_distributed_alike_under_every_motion_and_under_none(motion, resting_tracks):
    # Different seeds for the two samples, one random frame of each clip.
    moving, resting = _tracks(motion, 400), resting_tracks
    one = moving[range(400), np.random.default_rng(0).integers(0, 36, 400)]
    other = resting[:, 0]
    for freedom in range(4):
        assert ks_2samp(one[:, freedom], other[:, freedom]).pvalue > 1e-3
    steps = np.diff(moving, axis=1)  # the label's own degree of freedom moves, evenly, and no other
    assert [bool(abs(steps[..., k]).max() > 0) for k in range(4)].count(True) == 1
    assert not np.diff(resting, axis=1).any()


@pytest.mark.parametrize("motion", GROUPS["motion"][::2])
def test_opposite_motions_show_the_same_frames_in_opposite_order(motion):
    forwards, backwards = _tracks(motion, 50), _tracks(REVERSALS[motion], 50)
    np.testing.assert_array_equal(forwards[:, ::-1], backwards)
    assert not np.array_equal(forwards, backwards)


def test_motion_is_large_and_rotation_is_below_half_a_symmetry_angle():
    left, grow, turn = (_tracks(f"motion_{name}", 200) for name in ("left", "grow", "clockwise"))
    travel = left[:, 0, 0] - left[:, -1, 0]
    assert 30 < travel.min() < travel.max() < 55  # px of 112, leftwards
    np.testing.assert_allclose(grow[:, -1, 2] - grow[:, 0, 2], np.log(2))
    radii = np.exp(grow[..., 2])
    assert 14 <= radii.min() < radii.max() <= 32
    # 8 of 36 frames are 4.5 apart, at most 8 with jitter; half a turn is the least symmetry angle (next test).
    assert np.degrees(np.diff(turn[..., 3], axis=1) * 8).max() < 90


@pytest.mark.parametrize("name", [*HUES_DEG, *NEUTRALS])
def test_no_shape_looks_the_same_after_less_than_half_a_turn(name):
    def drawn(angle: float) -> np.ndarray:
        frame = np.full((72, 72, 3), 110, np.float32)
        paste(frame, sprite(name, np.random.default_rng(0)), 36, 36, 28, angle)
        return frame

    upright = drawn(0.3)
    contrast = np.abs(upright - 110).mean()
    for turn in range(20, 180, 10):
        assert np.abs(drawn(0.3 + np.radians(turn)) - upright).mean() > 0.1 * contrast, turn


def test_cards_do_not_tell_the_time(plans):
    cards = np.array([compose_clip(replace(p, index=i, picture_index=i), SEED).cards
                      for i, p in enumerate(_split(plans, "train")) if p.order])  # fmt: skip
    striped = cards[np.any(cards == "c", 1)]
    shown = (striped == "c").mean(0).reshape(6, 6).mean(1)
    assert shown == pytest.approx(np.full(6, 0.5), abs=0.06)
    a_and_b = cards[np.any(cards == "a", 1)]
    balance = ((a_and_b == "a").mean(0) - (a_and_b == "b").mean(0)).reshape(6, 6).mean(1)
    assert balance == pytest.approx(np.zeros(6), abs=0.06)


@pytest.mark.parametrize(
    ("order", "states"),
    [
        ("order_appears_vanishes", ["", "c", ""]),
        ("order_vanishes_appears", ["c", "", "c"]),
        ("order_a_before_b", ["a", "b"]),
        ("order_b_before_a", ["b", "a"]),
        ("appears", ["", "c"]),
        ("vanishes", ["c", ""]),
        ("blinks", None),
        ("a_b_a", ["a", "b", "a"]),
        ("b_a_b", ["b", "a", "b"]),
        ("together", ["both"]),
        (None, [""]),
    ],
)
def test_cards_follow_their_order(order, states):
    for index in range(40):
        cards = compose_clip(ClipPlan(index, index, "train", order=order), SEED).cards
        runs = [(card, len(list(run))) for card, run in itertools.groupby(cards)]
        if states is None:
            assert [card for card, _ in runs] in (["", "c"] * 2, ["c", ""] * 2)
        else:
            assert [card for card, _ in runs] == states
        assert min(length for _, length in runs) >= 7


@pytest.mark.slow
def test_a_probe_on_single_frames_tells_neither_time_nor_direction(tmp_path: Path):
    """A linear probe reads the cards from a still, but not the time and not the direction."""
    root = tmp_path
    write_minimoments(root, 0, 0, 600, seed=SEED)
    with (root / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clips = []
    for row in rows:
        with av.open(str(root / row["path"])) as container:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        pooled = decoded[[0, 3, 9, 14, 21, 26, 32, 35]].reshape(8, 14, 8, 14, 8, 3).mean((2, 4))
        clips.append(pooled.reshape(8, -1))
    x = np.stack(clips)  # (clips, 8, 588)
    source = np.array([json.loads(row["factors"])["twin_of"] or row["video_id"] for row in rows])
    names, picture = np.unique(source, return_inverse=True)
    half = np.random.default_rng(0).random(len(names))[picture] < 0.5  # twins stay on one side

    def auc(target: np.ndarray, use: np.ndarray) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))
        target = np.broadcast_to(target, x.shape[:2])
        probe.fit(x[use & half].reshape(-1, x.shape[2]), target[use & half].ravel())
        scores = probe.decision_function(x[use & ~half].reshape(-1, x.shape[2]))
        return float(roc_auc_score(target[use & ~half].ravel(), scores))

    everything = np.ones(len(rows), bool)
    late = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    at_the_ends = np.array([1, 0, 0, 0, 0, 0, 0, 1])
    assert auc(late, everything) == pytest.approx(0.5, abs=0.04)
    assert auc(at_the_ends, everything) == pytest.approx(0.5, abs=0.04)
    for pair in sorted({row["pair"] for row in rows} - {""}):
        use = np.array([row["pair"] == pair for row in rows])
        first = np.array([pair.split("/")[0] in row["labels"].split("|") for row in rows])[:, None]
        assert auc(first, use) == pytest.approx(0.5, abs=0.08), pair
    red = np.array(["appearance_disc" in row["labels"] for row in rows])[:, None]
    assert auc(red, everything) > 0.7  # the probe does see what is there


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    assert write_minimoments(root, 4, 1, 14, seed=SEED, workers=1) == root / "manifest.csv"
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_two_workers_write_the_same_bytes_as_one(written, tmp_path: Path):
    write_minimoments(tmp_path, 4, 1, 14, seed=SEED, workers=2)
    one, two = _files(written), _files(tmp_path)
    assert list(one) == list(two)
    assert len(one) == 19 + 2
    assert [name for name in one if one[name] != two[name]] == []


def test_the_manifest_names_every_file(written):
    with (written / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "labels", "video_id", "split", "pair", "factors"]
    assert Counter(row["split"] for row in rows) == {"train": 4, "val": 1, "test": 14}
    assert {row["path"] for row in rows} == {f"videos/{path.name}" for path in (written / "videos").iterdir()}
    assert (written / "labels.txt").read_text().splitlines() == LABELS
    assert all(set(row["labels"].split("|")) <= set(LABELS) for row in rows)
    assert json.loads(rows[0]["factors"])["mover"] in {*HUES_DEG, *NEUTRALS}


def test_files_hold_36_frames_and_a_track_where_planned(written):
    with (written / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with av.open(str(written / row["path"])) as container:
            video = container.streams.video[0]
            assert (video.codec_context.name, video.width, video.height, video.average_rate) == ("h264", 112, 112, 12)
            assert bool(container.streams.audio) == (json.loads(row["factors"])["sound"] is not None)
            assert sum(1 for _ in container.decode(video=0)) == 36
    assert {bool(json.loads(row["factors"])["sound"]) for row in rows} == {True, False}


def test_twins_show_each_others_frames_backwards():
    plans = {plan.index: plan for plan in plan_clips(0, 0, 60, seed=SEED)}
    twin = next(plan for plan in plans.values() if plan.reverse and plan.motion in ("motion_left", "motion_right"))
    frames, other = render_clip(twin, SEED)[0], render_clip(plans[twin.picture_index], SEED)[0]
    np.testing.assert_array_equal(frames, other[::-1])
    assert np.abs(frames.astype(int) - other).max() > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": -1}, "num_train is -1; it must be 0 or more"),
        ({"seed": -3}, "seed is -3"),
        ({"tail": 0.5}, "tail is 0.5"),
        ({"workers": 0}, "workers is 0; it must be 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path: Path, options, message):
    with pytest.raises(ReeltagError, match=message):
        write_minimoments(tmp_path / "mini", **{"num_train": 1, "num_val": 0, "num_test": 0, **options})
    assert not (tmp_path / "mini").exists()


# --- sound ----------------------------------------------------------------------------------------------------------


def _heard(track: np.ndarray) -> str:
    """Tell the kind of a sound by loudness, flatness, share of active time, slope of the peak, number of peaks."""
    if np.sqrt(np.mean(track**2)) < 0.015:
        return "background"
    short = np.sqrt(np.mean(track[: len(track) // 128 * 128].reshape(-1, 128) ** 2, 1))
    windows = track[: len(track) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = np.abs(np.fft.rfft(windows)) ** 2
    active = power.sum(1) > 0.1 * power.sum(1).max()
    spectrum = power[active].mean(0)[5:200]
    if np.exp(np.log(spectrum).mean()) / spectrum.mean() > 0.3:  # flat: noise
        return "sound_bursts" if (short > 0.3 * short.max()).mean() > 0.25 else "sound_clicks"
    peaks = power[active].argmax(1) + 1
    octaves = np.log2(np.median(peaks[-8:]) / np.median(peaks[:8]))
    if abs(octaves) > 1:
        return "sound_rising" if octaves > 0 else "sound_falling"
    fine = np.abs(np.fft.rfft(track[8000:40_000] * np.hanning(32_000)))  # half a hertz a bin
    highest = fine.reshape(-1)[:16_000].reshape(-1, 50).max(1)  # per 25 Hz
    strong = highest > 0.25 * highest.max()
    return "sound_chord" if (strong[1:] & ~strong[:-1]).sum() >= 3 else "sound_tone"


@pytest.mark.parametrize("sound", [*GROUPS["sound"], "background"])
def test_simple_spectral_rules_tell_the_sounds_apart(sound):
    tracks = [synthesise(sound, np.random.default_rng([SEED, i])) for i in range(60)]
    assert tracks[0].shape == (3 * RATE_HZ,)
    assert max(np.abs(track).max() for track in tracks) <= 0.8
    assert np.mean([_heard(track) == sound for track in tracks]) >= 0.95
