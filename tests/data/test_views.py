"""What the `data` and `test` sections mean, in frame numbers and pixels."""

import pytest
import torch

from reeltag.data.dataset import balanced_weights, label_swaps
from reeltag.data.views import TestView, TrainingView, choose_frames, even_clips, segment_clips, time_grid
from reeltag.recipe import DataSection, TestSection


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(frames, height, width):
    """A clip whose red is the column, green the row and blue the frame."""
    clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    clip[:, 0] = torch.arange(width)
    clip[:, 1] = torch.arange(height)[:, None]
    clip[:, 2] = torch.arange(frames)[:, None, None]
    return clip


def test_segment_clips_by_hand():
    assert segment_clips(24, 4, 1) == [[3, 9, 15, 21]]  # int(6 k + 3)
    assert segment_clips(24, 4, 2) == [[1, 7, 13, 19], [4, 10, 16, 22]]
    assert segment_clips(2, 4, 1) == [[0, 0, 1, 1]]
    assert segment_clips(1, 3, 2) == [[0, 0, 0]] * 2


def test_time_grid_takes_the_wanted_rate():
    assert list(time_grid(10, 30, 15)) == [0, 2, 4, 6, 8]
    assert list(time_grid(4, 10, 20)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert list(time_grid(5, 25, None)) == [0, 1, 2, 3, 4]
    assert list(time_grid(1, 25, 1)) == [0]


@pytest.mark.parametrize("sampling", ["segments", "dense", "uniform"])
@pytest.mark.parametrize("length", [1, 5, 8, 100])
def test_every_sampling_gives_the_asked_number_of_frames(sampling, length):
    data = DataSection(num_frames=8, sampling=sampling, stride=3, fps=10)
    chosen = choose_frames(data, length, 25.0, generator())
    assert len(chosen) == 8
    assert all(0 <= index < length for index in chosen)
    clips = even_clips(data, 3, length, 25.0)
    assert [len(clip) for clip in clips] == [8, 8, 8]
    assert all(0 <= index < length for clip in clips for index in clip)


def test_training_view_is_the_same_for_the_same_generator():
    data = DataSection(num_frames=4, short_side_px=24, crop="random", crop_px=16, flip=True, flip_time=True, gain=0.2)
    view = TrainingView(data)
    frames = ramp(4, 24, 32)
    first, applied = view.render(frames, generator(3))
    again, _ = view.render(frames, generator(3))
    assert torch.equal(first, again)
    assert first.shape == (1, 4, 3, 16, 16)
    seen = {frozenset(view.render(frames, generator(seed))[1]) for seed in range(40)}
    assert seen == {frozenset(), frozenset({"horizontal"}), frozenset({"time"}), frozenset({"horizontal", "time"})}
    assert applied in seen


def test_test_view_cuts_the_middle_and_orders_views_by_clip_then_crop():
    data = DataSection(num_frames=2, short_side_px=20, crop="random", crop_px=20)
    one, _ = TestView(data, TestSection()).render(ramp(2, 20, 40), generator())
    assert one.shape == (1, 2, 3, 20, 20)
    assert (int(one[0, 0, 0, 0, 0]), int(one[0, 0, 0, 0, -1])) == (10, 29)
    view = TestView(data, TestSection(clips=2, crops=3))
    assert view.names == ("clip0_crop0", "clip0_crop1", "clip0_crop2", "clip1_crop0", "clip1_crop1", "clip1_crop2")
    many, _ = view.render(ramp(4, 20, 40), generator())
    assert many.shape == (6, 2, 3, 20, 20)
    assert many[:, 0, 0, 0, 0].tolist() == [0, 10, 20, 0, 10, 20]  # left edges of the crops
    assert many[:, 0, 2, 0, 0].tolist() == [0, 0, 0, 2, 2, 2]  # first frames of the clips


def test_aspect_ratio_is_kept_or_not():
    kept = TestView(DataSection(short_side_px=32, crop="none"), TestSection(crop_px=32))
    square = TestView(DataSection(short_side_px=32, crop="none", keep_aspect=False), TestSection(crop_px=32))
    frames = ramp(8, 64, 128)
    assert int(kept.render(frames, generator())[0][0, 0, 0].max()) < 100  # the sides are cut off
    assert int(square.render(frames, generator())[0][0, 0, 0].max()) > 120  # the whole width is there


def test_stages_change_the_size_by_epoch():
    small = {"from_epoch": 0, "crop_px": 8, "num_frames": 2}
    large = {"from_epoch": 3, "crop_px": 16, "num_frames": 4}
    data = DataSection(num_frames=4, short_side_px=20, crop_px=16, stages=[small, large])
    assert data.at_epoch(2).short_side_px == 10
    view = TrainingView(data)
    for epoch, frames, side in ((0, 2, 8), (2, 2, 8), (3, 4, 16), (50, 4, 16)):
        at = view.at_epoch(epoch)
        chosen = at.choose(30, 10.0, generator())
        clip, _ = at.render(ramp(len(chosen), 24, 32), generator())
        assert clip.shape == (1, frames, 3, side, side)
    with pytest.raises(ValueError, match="must begin at from_epoch 0 and rise"):
        DataSection(short_side_px=20, crop_px=16, stages=[large])


def test_label_swaps_follow_the_flips():
    swaps = label_swaps({"horizontal": [("left", "right")]}, ["left", "up", "right"])
    assert torch.tensor([1, 0, 0])[swaps["horizontal"]].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="'rigth' is no label"):
        label_swaps({"horizontal": [("left", "rigth")]}, ["left", "right"])
    with pytest.raises(ValueError, match="stands in two pairs"):
        label_swaps({"time": [("a", "b"), ("b", "c")]}, ["a", "b", "c"])


def test_balanced_weights_draw_every_label_equally():
    targets = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    weights = torch.tensor(balanced_weights(targets, [0, 1]))
    assert weights[:4].sum() == pytest.approx(float(weights[4]))  # four clips of label 0 together, one of label 1
    assert weights[5] == pytest.approx(float(weights[:5].mean()))  # neither of the two
