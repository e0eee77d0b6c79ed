"""Why a tag was given: numbers of models that can be worked out by hand, and what the page of it holds."""

import numpy as np
import pytest
import torch

from reeltag.errors import MediaError, ReeltagError
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.explain import explain
from reeltag.inference.hiding import Subject
from reeltag.inference.saliency import METHODS, logits_of
from reeltag.media import open_media, open_video
from reeltag.media.encode import write_video

LEVELS = [40] * 8 + [200] * 8 + [90] * 16  # four parts of a second at 8 frames a second


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """Two seconds of dark grey with a bright square in the upper left quarter, at (8, 8) to (24, 24) of 64 px."""
    frames = np.full((16, 64, 64, 3), 40, np.uint8)
    frames[:, 8:24, 8:24] = 240
    path = tmp_path_factory.mktemp("square") / "square.mp4"
    write_video(path, frames, 8, crf=4)
    return path


def subject_of(tagger, path, **options):
    with open_media(path) as media:
        return Subject(tagger, media, str(path), **options)


def test_hiding_nothing_changes_nothing_and_hiding_all_leaves_the_mean_colour(brightness, square):
    subject = subject_of(brightness, square)
    assert subject.grid == (16, 16)
    ones = torch.ones(1, 8, 16, 16)
    scores = subject.scores()
    assert scores[0].tolist() == pytest.approx(
        [brightness(square).scores[brightness(square).labels.index(n)] for n in brightness.label_names]
    )
    np.testing.assert_array_equal(subject.scores(ones), scores)
    hidden = logits_of(subject.scores(0 * ones))[0]
    # A clip of its own mean: both labels see the mean of the whole, to half a grey level.
    assert hidden == pytest.approx([logits_of(scores)[0, 0]] * 2, abs=8 * 0.5 / 255 + 1e-4)


def test_drops_over_time_are_those_worked_out_by_hand(brightness, write_levels, tmp_path):
    path = write_levels(tmp_path / "levels.mp4", LEVELS)
    with open_video(path) as video:
        looked = video.frames_at([4, 12, 20, 28]).float().mean((1, 2, 3)).numpy() / 255  # centres of four segments
    found = explain(brightness, path, labels=["bright"], num_parts=4)
    (one,) = found.explanations
    assert [(round(p.start_s, 3), round(p.end_s, 3)) for p in one.time] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    # A part that is hidden becomes the mean, so that the logit 8 (mean - 1/2) changes by a quarter of its excess.
    expected = 8 * (looked - looked.mean()) / 4
    assert [p.evidence for p in one.time] == pytest.approx(expected.tolist(), abs=8 * 0.5 / 255 / 4 + 1e-3)
    logit = 8 * (looked.mean() - 0.5)
    drops = 1 / (1 + np.exp(-logit)) - 1 / (1 + np.exp(-(logit - expected)))
    assert [p.drop for p in one.time] == pytest.approx(drops.tolist(), abs=2e-3)
    assert one.modalities == {}


def test_the_occlusion_map_is_the_one_worked_out_by_hand(brightness, square):
    subject = subject_of(brightness, square, num_parts=4)
    corner, _ = METHODS["occlusion"](subject, [1, 0], torch.Generator())
    with open_video(square) as video:
        frame = video.frames_at([2])[0, 0].float().numpy() / 255  # (64, 64); all frames are alike
    small = frame.reshape(16, 4, 16, 4).mean((1, 3))  # of the cells
    # A patch of 4 x 4 cells in one of four frames: the sum of (pixel - mean) over it, of a quarter of the picture.
    excess = (small - small.mean())[:8, :8]
    at_square = 8 * excess[2:6, 2:6].sum() / 64 / 4
    assert corner[:, 3, 3].max() < at_square  # the mean over the patches that cover a cell
    patches = {(y, x): 8 * excess[y : y + 4, x : x + 4].sum() / 64 / 4 for y in (0, 2) for x in (0, 2)}
    # Masks are interpolated between cells, which blurs an edge by half a cell.
    assert corner[1, 3, 3] == pytest.approx(np.mean(list(patches.values())), rel=0.15)
    assert np.abs(corner[:, 10:, 10:]).max() < 2e-5  # nothing there can change the label; a score is float32
    assert np.unravel_index(corner[2].argmax(), (16, 16)) in [(y, x) for y in range(2, 6) for x in range(2, 6)]


@pytest.mark.parametrize("method", ["occlusion", "rise", "grad_cam"])
def test_the_strongest_place_is_the_square(brightness, square, method):
    found = explain(brightness, square, labels=["bright_corner"], method=method)
    place = found.explanations[0].place
    left, top, right, bottom = place.box
    assert 0.0 <= left < right <= 0.5
    assert 0.0 <= top < bottom <= 0.5
    middle = ((left + right) / 2 * 64, (top + bottom) / 2 * 64)
    assert 8 <= middle[0] <= 24
    assert 8 <= middle[1] <= 24
    assert place.evidence > 0
    assert found.method == method


def test_grad_cam_of_a_linear_model_is_its_picture(brightness, square):
    subject = subject_of(brightness, square)
    heat = METHODS["grad_cam"](subject, [0], torch.Generator())[0]
    with open_video(square) as video:
        frame = video.frames_at([2])[0, 0].float().numpy()
    own = frame.reshape(16, 4, 16, 4).mean((1, 3))
    looked = [part for part in range(8) if heat[part].any()]  # four frames in eight parts
    assert len(looked) == 4
    for part in looked:
        assert np.corrcoef(heat[part].ravel(), own.ravel())[0, 1] > 0.98
        assert heat[part, 4, 4] / heat[part, 12, 12] == pytest.approx(own[4, 4] / own[12, 12], rel=0.02)


def test_random_masks_come_from_the_seed(brightness, square):
    first, again, other = (
        explain(brightness, square, labels=["bright"], method="rise", seed=seed).explanations[0].maps
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_what_an_ensemble_loses_without_each_modality(brightness, loudness, write_levels, tmp_path):
    sound = (0.8 * np.sign(np.sin(np.arange(4 * 8000) / 5))).astype(np.float32)
    sound[8000:] *= 0.05  # loud in the first second alone
    path = write_levels(tmp_path / "both.mp4", LEVELS, audio=sound)
    tagger = EnsembleTagger(
        Ensemble(of="probabilities", members=[{"name": "a"}, {"name": "b"}]), [brightness, loudness]
    )
    (one,) = explain(tagger, path, labels=["bright"], num_parts=4).explanations
    rgb, audio = (dict(zip(t(path).labels, t(path).scores, strict=True))["bright"] for t in (brightness, loudness))
    assert one.score == pytest.approx((rgb + audio) / 2, abs=1e-6)
    assert one.modalities == pytest.approx({"rgb": one.score - audio, "audio": one.score - rgb}, abs=1e-6)
    # The sound that is heard are the middle two of four seconds; hiding the last one changes the picture alone.
    alone = explain(brightness, path, labels=["bright"], num_parts=4).explanations[0]
    assert one.time[3].drop == pytest.approx(alone.time[3].drop / 2, abs=1e-6)


def test_sound_alone_has_times_and_no_place(loudness, write_levels, tmp_path):
    sound = np.concatenate([np.zeros(8000), 0.9 * np.sign(np.sin(np.arange(8000) / 5))]).astype(np.float32)
    path = write_levels(tmp_path / "s.mp4", [100] * 16, audio=sound)
    found = explain(loudness, path, labels=["bright"], num_parts=2)
    (one,) = found.explanations
    assert (one.place, one.maps, found.frames, found.method) == (None, None, None, "")
    assert [round(p.start_s) for p in one.time] == [0, 1]
    assert one.time[0].evidence == pytest.approx(0, abs=0.02)  # silent already
    assert one.time[1].evidence == pytest.approx(8 * 0.45, abs=0.1)


def test_a_bad_call_says_what_is_allowed(brightness, square, write_levels, tmp_path):
    with pytest.raises(ReeltagError, match="no method is called 'lime'; allowed: auto, grad_cam, occlusion, rise"):
        explain(brightness, square, method="lime")
    with pytest.raises(ReeltagError, match="'dim' is no label of this model"):
        explain(brightness, square, labels=["dim"])
    with pytest.raises(ReeltagError, match="num_parts=1"):
        explain(brightness, square, num_parts=1)
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaError):
        explain(brightness, tmp_path / "no.mp4")
