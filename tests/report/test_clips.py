"""The clips of a report: the order, the verdicts, and the picture."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from reeltag.report.clips import best_and_worst, strip_of
from reeltag.store.scores import Scores

VALUES = np.array(
    [[0.9, 0.1, 0.2, 0.3], [0.4, 0.9, 0.8, 0.7], [0.9, 0.8, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5], [0.6, 0.3, 0.2, 0.1]],
    np.float32,
)
TARGETS = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
SCORES = Scores(list("abcde"), VALUES, ["run", "jump", "swim", "dive"], "probability", targets=TARGETS)


def test_best_first_and_worst_first_without_overlap():
    best, worst = best_and_worst(SCORES, None, num_clips=8)
    assert [(card.video_id, card.average_precision) for card in best] == [("a", 1.0), ("e", 1.0)]  # margins .6 and .3
    assert [(card.video_id, card.average_precision) for card in worst] == [("b", 0.25), ("c", pytest.approx(5 / 6))]
    best, worst = best_and_worst(SCORES, None, num_clips=1)
    assert [card.video_id for card in best + worst] == ["a", "b"]


def test_verdicts():
    best, worst = best_and_worst(SCORES, None, num_clips=8)
    said = [(p.label, p.place, p.verdict) for p in worst[1].predictions]
    assert said == [("run", 1, "right"), ("jump", 2, "wrong"), ("dive", 3, "right")]
    assert worst[1].missed == []
    assert [(p.label, p.place, p.verdict) for p in worst[0].missed] == [("run", 4, "right")]
    assert [p.verdict for p in best[0].predictions] == ["right", "rest", "rest"]
    assert best[0].predictions[0].score == pytest.approx(0.9)


def test_an_unknown_label_is_neither_right_nor_wrong_for_the_order():
    ignore = np.zeros((5, 4), bool)
    ignore[1, 1:] = True
    scores = Scores(list("abcde"), VALUES, SCORES.label_names, "probability", targets=TARGETS, ignore=ignore)
    _, worst = best_and_worst(scores, None, num_clips=1)
    assert worst[0].video_id == "c"
    ignore[2, 1] = True
    scores = Scores(list("abcde"), VALUES, SCORES.label_names, "probability", targets=TARGETS, ignore=ignore)
    cards = {card.video_id: card for side in best_and_worst(scores, None, num_clips=8) for card in side}
    assert [p.verdict for p in cards["c"].predictions] == ["right", "rest", "right"]
    assert cards["c"].average_precision == 1.0


def test_no_truth_no_clips():
    assert best_and_worst(Scores(["a"], VALUES[:1], list("wxyz"), "probability"), None, num_clips=3) == ([], [])


def test_strip_holds_the_frames_in_order():
    frames = np.zeros((4, 300, 600, 3), np.uint8)
    for i in range(4):
        frames[i, :, :, i % 3] = 250
    strip = strip_of(frames)
    assert (strip.num_frames, strip.aspect) == (4, 2.0)
    image = Image.open(io.BytesIO(base64.b64decode(strip.uri.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (4 * 240, 120)
    pixels = np.asarray(image)
    assert [int(pixels[60, 240 * i + 120].argmax()) for i in range(4)] == [0, 1, 2, 0]


def test_small_frames_are_not_enlarged_and_others_are_refused():
    assert strip_of(np.zeros((1, 30, 20, 3), np.uint8)).aspect == pytest.approx(2 / 3)
    for wrong in (np.zeros((4, 3, 20, 20), np.uint8), np.zeros((4, 20, 20, 3)), np.zeros((0, 20, 20, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \(T, H, W, 3\)"):
            strip_of(wrong)
