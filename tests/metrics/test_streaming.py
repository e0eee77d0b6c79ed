"""Metrics of batches, merged over processes, equal those of one call exactly."""

import tracemalloc

import numpy as np
import pytest
import torch

from reeltag.metrics import METRICS
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.metrics.streaming import Accumulator


def test_batches_give_the_numbers_of_one_call(case):
    scores, targets = case
    ignore = np.random.default_rng(4).random(scores.shape) < 0.1
    seen = Accumulator()
    for start in range(0, len(scores), 7):
        part = slice(start, start + 7)
        seen.add(scores[part], targets[part], ignore[part])
    pairs = seen.pairs()
    one = evaluate_scores(scores, targets, ignore)
    np.testing.assert_equal(evaluate_scores(pairs, pairs.targets).to_dict(), one.to_dict())
    assert len(seen) == len(scores)


def test_torch_and_reused_buffers(draw):
    scores, targets = draw(20, 6)
    seen, buffer = Accumulator(), torch.empty(5, 6, dtype=torch.float64)
    for start in range(0, 20, 5):
        buffer.copy_(torch.from_numpy(scores[start : start + 5]))
        seen.add(buffer, torch.from_numpy(targets[start : start + 5]).long())
    pairs = seen.pairs()
    assert METRICS["map_macro"](pairs, pairs.targets) == METRICS["map_macro"](scores, targets)


def test_parts_of_processes_merge_and_each_video_counts_once(draw):
    scores, targets = draw(23, 9, levels=4)
    ignore = np.zeros_like(targets)
    ignore[3, 2] = True
    parts = []
    for rank in range(3):
        rows = np.arange(rank, 24, 3) % 23  # as a sampler does that repeats the first video to make shares equal
        parts.append(Accumulator())
        parts[-1].add(scores[rows], targets[rows], ignore[rows] if 3 in rows else None, rows=rows)
    whole = Accumulator.merged(parts)
    assert len(whole) == 24
    pairs = whole.pairs()
    np.testing.assert_array_equal(pairs.scores, scores)  # in the order of the numbers
    np.testing.assert_array_equal(pairs.ignore, ignore)
    one = evaluate_scores(scores, targets, ignore).to_dict()
    np.testing.assert_equal(evaluate_scores(pairs, pairs.targets).to_dict(), one)


def test_more_can_be_added_after_a_value_was_asked_for(draw):
    scores, targets = draw(12, 5)
    seen = Accumulator()
    for start in range(0, 12, 4):
        part = np.arange(start, start + 4)
        seen.add(scores[part], targets[part], rows=part)
        pairs = seen.pairs()
        expected = METRICS["lrap"](scores[: start + 4], targets[: start + 4])
        assert METRICS["lrap"](pairs, pairs.targets) == expected


def test_bad_batches_are_refused(draw):
    scores, targets = draw(6, 4)
    seen = Accumulator()
    with pytest.raises(ValueError, match="nothing was added"):
        seen.pairs()
    with pytest.raises(ValueError, match=r"rows must be \(6,\), one per video, got \(5,\)"):
        seen.add(scores, targets, rows=np.arange(5))
    with pytest.raises(ValueError, match="0 or 1, got 2"):
        seen.add(scores, targets * 2)
    seen.add(scores, targets)
    with pytest.raises(ValueError, match="this batch has 3 labels, those before 4"):
        seen.add(scores[:, :3], targets[:, :3])
    with pytest.raises(ValueError, match="rows of every batch, or of none"):
        seen.add(scores, targets, rows=np.arange(6))


def test_joining_the_batches_needs_no_second_matrix():
    generator, seen = np.random.default_rng(0), Accumulator()
    for _ in range(40):
        seen.add(generator.random((500, 50), dtype=np.float32), generator.random((500, 50)) < 0.1)
    held = 20_000 * 50 * 5
    tracemalloc.start()
    seen.pairs()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What is joined was allocated before the measurement, so all that may be new is one matrix, a batch and masks.
    assert peak < 1.35 * held


@pytest.mark.slow
def test_map_macro_of_a_million_videos_needs_50_mib_beyond_its_input():
    generator = np.random.default_rng(0)
    scores = np.empty((1_000_000, 313), dtype=np.float32)
    targets = np.empty(scores.shape, dtype=bool)
    for start in range(0, len(scores), 50_000):
        part = slice(start, start + 50_000)
        targets[part] = generator.random((50_000, 313), dtype=np.float32) < 0.01
        scores[part] = generator.random((50_000, 313), dtype=np.float32) + 0.3 * targets[part]
    tracemalloc.start()
    value = METRICS["map_macro"](scores, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.01 < value < 1
    assert peak < 50 * 2**20
