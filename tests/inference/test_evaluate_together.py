"""Evaluation on several processes counts each video once, and gives the numbers of one process."""

import numpy as np
import pytest

from reeltag.data.footage import open_footage
from reeltag.inference.evaluate import evaluate
from reeltag.inference.load import load_trained
from reeltag.processes import join


def evaluated(run, packed, split):
    with join("cpu"):
        found = evaluate(
            load_trained(str(run), device="cpu"), open_footage(packed), split=split, views="2x1", workers=0
        )
        return found.scores, found.results.values, found.by_clip


@pytest.mark.parametrize(("world", "split"), [(2, "all"), (3, "val")])
def test_each_video_counts_once(together, mini_run, mini_packed, world, split):
    expected = evaluated(mini_run, mini_packed, split)
    for scores, values, by_clip in together(world, evaluated, mini_run, mini_packed, split):
        assert scores.video_ids == expected[0].video_ids
        # A share ends a batch early, and torch sums batches of other sizes in another order.
        np.testing.assert_allclose(scores.values, expected[0].values, atol=1e-6)
        assert np.array_equal(scores.targets, expected[0].targets)
        assert values == pytest.approx(expected[1], rel=1e-6, nan_ok=True)
        assert by_clip == pytest.approx(expected[2], rel=1e-6, nan_ok=True)


def test_more_processes_than_videos(together, mini_run, mini_packed):
    expected = evaluated(mini_run, mini_packed, "val")  # 8 videos
    for scores, values, _ in together(9, evaluated, mini_run, mini_packed, "val"):
        assert scores.video_ids == expected[0].video_ids
        assert values == pytest.approx(expected[1], rel=1e-6, nan_ok=True)
