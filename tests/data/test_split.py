from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltag.data.manifest import Manifest
from reeltag.data.split import split_manifest
from reeltag.errors import ManifestError


def make(labels, groups=None, num_labels=None, **columns) -> Manifest:
    num_labels = num_labels or 1 + max((i for row in labels for i in row), default=0)
    names = [f"l{n}" for n in range(num_labels)]
    return Manifest.build(
        [f"{n}.mp4" for n in range(len(labels))], labels, names, root=Path("/data"), groups=groups, **columns
    )


def long_tail(num_clips: int, num_labels: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    chance = 0.4 / np.arange(1, num_labels + 1) ** 0.8
    return [np.flatnonzero(row).tolist() for row in rng.random((num_clips, num_labels)) < chance]


def shares(manifest: Manifest, split: str) -> np.ndarray:
    inside = np.array(manifest.splits) == split
    return manifest.targets()[inside].sum(0) / manifest.targets().sum(0)


def test_label_ratios_are_nearer_than_those_of_a_random_split():
    manifest = make(long_tail(2000, 40))
    made = split_manifest(manifest, val=0.1, test=0.2)
    assert made.split_counts == pytest.approx({"test": 400, "train": 1400, "val": 200}, abs=4)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        counts = share * manifest.targets().sum(0)
        off = np.abs(shares(made, split) * manifest.targets().sum(0) - counts)
        assert off.max() <= 2.5, split  # clips of a label too many or too few
        random = np.random.default_rng(0).permutation(manifest.targets())[: int(2000 * share)].sum(0)
        assert np.abs(random - counts).mean() > 5 * off.mean()


def test_the_rarest_label_is_shared_out_exactly():
    made = split_manifest(make([[0, 1]] * 10 + [[1]] * 90), val=0.2, test=0.2)
    assert [round(float(shares(made, s)[0]), 6) for s in ("train", "val", "test")] == [0.6, 0.2, 0.2]
    assert made.split_counts == {"test": 20, "train": 60, "val": 20}


@settings(max_examples=80, deadline=None)
@given(data=st.data(), seed=st.integers(0, 3))
def test_groups_stay_together_and_train_sees_every_label(data, seed):
    count = data.draw(st.integers(1, 40))
    labels = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), min_size=count, max_size=count))
    groups = data.draw(st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=count, max_size=count))
    made = split_manifest(make(labels, groups, num_labels=6), val=0.3, test=0.3, seed=seed)
    split_of = {}
    for name, split in zip(groups, made.splits, strict=True):
        assert name == "" or split_of.setdefault(name, split) == split
    train = made.targets()[np.array(made.splits) == "train"]
    assert ((train.sum(0) > 0) == (made.targets().sum(0) > 0)).all()


def test_many_groups_of_uneven_size_keep_the_ratios():
    rng = np.random.default_rng(0)
    groups = [f"g{n}" for n in rng.integers(0, 300, 3000)]
    made = split_manifest(make(long_tail(3000, 20), groups), val=0.15, test=0.15)
    by_group = {}
    for name, split in zip(groups, made.splits, strict=True):
        assert by_group.setdefault(name, split) == split
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert np.abs(shares(made, split) - share).max() < 0.06, split


def test_same_seed_same_split_and_the_seed_matters():
    manifest = make(long_tail(300, 10))
    assert split_manifest(manifest, seed=1).splits == split_manifest(manifest, seed=1).splits
    assert split_manifest(manifest, seed=1).splits != split_manifest(manifest, seed=2).splits


def test_a_column_can_be_the_group():
    cameras = [str(n % 7) for n in range(70)]
    manifest = make([[n % 3] for n in range(70)], extra={"camera": cameras})
    made = split_manifest(manifest, val=0.2, test=0.2, group="camera")
    assert len({(c, s) for c, s in zip(cameras, made.splits, strict=True)}) == 7
    assert made.groups == tuple(cameras)
    with pytest.raises(ManifestError, match=r"No column 'camra'.*Did you mean 'camera'"):
        split_manifest(manifest, group="camra")


def test_shares_of_zero_and_impossible_shares():
    made = split_manifest(make([[0]] * 10), val=0.2, test=0.0)
    assert made.split_counts == {"train": 8, "val": 2}
    for val, test in ((0.5, 0.5), (-0.1, 0.1), (1.0, 0.0)):
        with pytest.raises(ManifestError, match="leave a share for train"):
            split_manifest(make([[0]] * 10), val=val, test=test)


def test_clips_without_labels_are_dealt_too():
    made = split_manifest(make([[]] * 20, num_labels=2), val=0.25, test=0.25)
    assert made.split_counts == {"test": 5, "train": 10, "val": 5}
    assert replace(made, splits=None).split_counts == {"": 20}
