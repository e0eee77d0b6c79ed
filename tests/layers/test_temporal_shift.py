"""The shift, by hand and against the published operation's record."""

import pytest
import torch
from torch.nn import functional as F

from reeltag.layers.temporal_shift import ClipLength, TemporalShift, shift_as_kernel, temporal_shift


def test_shift_by_hand():
    x = torch.arange(1.0, 13.0).view(3, 4, 1, 1)  # one clip of three frames, four channels
    y = temporal_shift(x, 3, fraction=1 / 4)[:, :, 0, 0]
    assert y.tolist() == [[5, 0, 3, 4], [9, 2, 7, 8], [0, 6, 11, 12]]


def test_clips_of_a_batch_do_not_mix():
    x = torch.randn(8, 16, 2, 2)
    both = temporal_shift(x, 4)
    assert torch.equal(both[:4], temporal_shift(x[:4], 4))
    assert torch.equal(both[4:], temporal_shift(x[4:], 4))


def test_tokens_shift_like_maps():
    x = torch.randn(6, 5, 8)  # (T, N, C)
    clip = ClipLength()
    clip.num_frames = 3
    tokens = TemporalShift(clip=clip, fraction=1 / 4)(x)
    maps = temporal_shift(x.transpose(1, 2).unsqueeze(-1), 3, 1 / 4).squeeze(-1).transpose(1, 2)
    assert torch.equal(tokens, maps)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="7 frames cannot be split into clips of 2"):
        temporal_shift(torch.zeros(7, 8, 1, 1), 2)
    with pytest.raises(ValueError, match=r"must be in \(0, 1/2\], got 0.6"):
        temporal_shift(torch.zeros(4, 8, 1, 1), 2, 0.6)


def test_shift_and_a_2d_kernel_are_one_3d_kernel():
    torch.manual_seed(0)
    clips, kernel = torch.randn(2, 6, 5, 7, 7, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)
    frames = F.conv2d(temporal_shift(clips.flatten(0, 1), 6, 1 / 4), kernel, padding=1).unflatten(0, (2, 6))
    whole = F.conv3d(clips.transpose(1, 2), shift_as_kernel(kernel, 1 / 4), padding=1)
    torch.testing.assert_close(whole.transpose(1, 2), frames, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"in \(0, 1/2\], got 0.6"):
        shift_as_kernel(kernel, 0.6)
