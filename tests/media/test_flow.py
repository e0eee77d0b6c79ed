"""Flow of textures whose shift is known, and the bytes it is stored in."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reeltag.bench.flow import DIRECTIONS, moved, pair_numbers, waves
from reeltag.data.minimoments.write import plan_clips, render_clip
from reeltag.errors import ReeltagError
from reeltag.media.flow import (
    compute_flow,
    dequantise,
    flow_between,
    flow_image,
    pairs_of,
    quantise,
    require_opencv,
    resize_flow,
)
from reeltag.media.transforms import HorizontalFlip, TimeReverse, VerticalFlip, negated

BYTES = torch.arange(1, 256, dtype=torch.uint8)
ALWAYS = torch.Generator()


def texture(x_px: float, y_px: float, *, height: int = 96, width: int = 128, seed: int = 0) -> torch.Tensor:
    """A smooth grey picture, moved by (x_px, y_px) exactly: uint8 (3, H, W)."""
    return waves(x_px, y_px, height, width, seed=seed)


@pytest.mark.parametrize("method", ["tvl1", "dis"])
@pytest.mark.parametrize("shift", [(1, 0), (-3, 2), (0, -5), (0.5, 0.25), (-1.75, 3.5), (0, 0)])
def test_a_known_shift_is_found_with_its_sign(method, shift):
    flow = flow_between(texture(0, 0), texture(*shift), method)
    assert flow.dtype == torch.float32
    error = (flow - torch.tensor(shift)[:, None, None])[:, 8:-8, 8:-8].square().sum(0).sqrt()
    assert error.mean() < 0.1  # measured: 0.05 for TV-L1, 0.03 for DIS; what enters at the border is not counted


@pytest.mark.parametrize("method", ["tvl1", "dis"])
def test_only_what_moves_has_flow(method):
    first, second = texture(0, 0).clone(), texture(0, 0).clone()
    block = texture(0, 0, seed=1)[:, :40, :40]
    first[:, 28:68, 40:80], second[:, 28:68, 42:82] = block, block  # two pixels to the right
    flow = flow_between(first, second, method)
    assert (flow[0, 38:58, 52:70].median() - 2).abs() < 0.2
    assert flow[1, 38:58, 52:70].abs().median() < 0.2
    assert flow[:, :12].abs().median() < 0.05
    assert flow[:, :, 110:].abs().median() < 0.05


def test_both_methods_see_the_grey_picture_and_give_what_opencv_gives():
    frames = torch.stack(
        [torch.stack([texture(x, 1, height=48, width=64, seed=n)[0] for n in range(3)]) for x in (0, 2)]
    )
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R 601
    grey = [(frame * weights).sum(0).round().to(torch.uint8).numpy() for frame in frames]
    solvers = {"tvl1": cv2.optflow.createOptFlow_DualTVL1(), "dis": cv2.DISOpticalFlow_create(2)}
    for method, solver in solvers.items():
        expected = torch.from_numpy(solver.calc(grey[0], grey[1], None)).permute(2, 0, 1)
        flow = compute_flow(frames, [(0, 1)], method)[0]
        assert (
            flow - expected
        ).abs().mean() < 0.01  # a grey value on the border of two bytes may be rounded the other way
        assert (flow[0, 8:-8, 8:-8].mean() - 2).abs() < 0.05


def test_pairs_may_repeat_and_go_backwards_and_threads_do_not_matter():
    frames = torch.stack([texture(0, 0, height=40, width=48), texture(2, -1, height=40, width=48)])
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(compute_flow(frames, [(1, 0), (0, 1), (1, 0), (1, 1)], "tvl1"))
    finally:
        torch.set_num_threads(threads)
    flow, again = results
    assert torch.equal(flow, again)
    assert torch.equal(flow[0], flow[2])
    assert not flow[3].any()
    middle = flow[:, :, 8:-8, 8:-8].mean((2, 3))
    torch.testing.assert_close(middle[:2], torch.tensor([[-2.0, 1.0], [2.0, -1.0]]), rtol=0, atol=0.05)


def test_a_function_may_take_the_place_of_a_method():
    frames = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 4)
    calls = []

    def difference(first, second):
        calls.append(len(first))
        return (second - first)[:, :2].float()

    pairs = [(n, n + 2) for n in range(17)] + [(3, 4)]
    flow = compute_flow(frames, pairs, difference)
    assert flow[:, 0, 0, 0].tolist() == [2.0] * 17 + [1.0]
    assert max(calls) <= 8
    assert sum(calls) == 18


def test_tiny_and_narrow_pictures_do_not_end_the_process():
    """OpenCV 5.0 does so with DIS at 12 x 64."""
    code = (
        "import torch; from reeltag.media.flow import compute_flow\n"
        "for size in [(1, 1), (5, 300), (300, 5), (12, 64), (15, 400), (16, 400), (17, 17)]:\n"
        "    frames = torch.zeros(2, 3, *size, dtype=torch.uint8); frames[1] += 9\n"
        "    for method in ('dis', 'tvl1'):\n"
        "        flow = compute_flow(frames, [(0, 1)], method)\n"
        "        assert flow.shape == (1, 2, *size) and flow.isfinite().all(), (method, size)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_minimoments_calls_left_is_left():
    """Against the background, which drifts by itself."""
    plans = plan_clips(0, 0, 60, seed=0)
    for label, (axis, sign) in DIRECTIONS.items():
        plan = next(plan for plan in plans if plan.motion == label)
        pixels = render_clip(plan, 0)[0]
        frames = torch.from_numpy(pixels[pair_numbers(len(pixels))]).permute(0, 3, 1, 2)
        assert sign * moved(frames, "dis")[axis] > 0.05, label


def test_pairs_past_the_end_are_the_last_that_exist():
    assert pairs_of(4) == [(0, 1), (1, 2), (2, 3), (2, 3)]
    assert pairs_of(5, 2) == [(0, 2), (1, 3), (2, 4), (2, 4), (2, 4)]
    assert pairs_of(2, 3) == [(0, 1), (0, 1)]
    assert pairs_of(1) == [(0, 0)]


def test_bytes_of_known_flow():
    flow = torch.tensor([0.0, 20, -20, 1e6, -1e6, 20 / 127, -20 / 127, 0.07, 0.08, 10])
    assert quantise(flow).tolist() == [128, 255, 1, 255, 1, 129, 127, 128, 129, 192]
    assert quantise(flow, 40.0).tolist() == [128, 192, 64, 255, 1, 128, 128, 128, 128, 160]
    assert dequantise(torch.tensor([0, 1, 128, 255], dtype=torch.uint8)).tolist() == [-20, -20, 0, 20]


@pytest.mark.parametrize("bound_px", [20.0, 40.0, 7.3, 1.0, 0.01])
def test_bytes_are_inverted_exactly(bound_px):
    assert torch.equal(quantise(dequantise(BYTES, bound_px), bound_px), BYTES)


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, 16, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.5, 100),
)
def test_a_changed_sign_is_256_minus_the_byte_and_the_error_is_half_a_step(values, bound_px):
    flow = torch.from_numpy(values)
    stored = quantise(flow, bound_px)
    assert stored.min() >= 1
    assert torch.equal(quantise(-flow, bound_px), negated(stored))
    assert torch.equal(quantise(-flow, bound_px).int(), 256 - stored.int())
    off = (dequantise(stored, bound_px) - flow.clamp(-bound_px, bound_px)).abs()
    assert off.max() <= bound_px / 254 * (1 + 1e-5)


def test_flipping_bytes_is_flipping_the_flow():
    flow = 30 * torch.randn(5, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    for flip in (HorizontalFlip(1.0), VerticalFlip(1.0), TimeReverse(1.0)):
        assert torch.equal(flip(quantise(flow), ALWAYS)[0], quantise(flip(flow, ALWAYS)[0]))


def test_a_mirrored_video_has_the_mirrored_flow():
    first, second = texture(0, 0), texture(-2.5, 1)
    flow = torch.stack([flow_between(first, second, "dis")])
    mirrored = flow_between(first.flip(2), second.flip(2), "dis")
    expected, _ = HorizontalFlip(1.0)(flow, ALWAYS)
    assert (mirrored - expected[0]).abs().mean() < 0.05  # the method itself is not quite symmetric
    assert mirrored[0].median() > 2


def test_images_have_a_third_channel_of_zeros_and_twice_the_bound():
    flow = torch.tensor([[40.0, -40.0], [0.0, 10.0]]).view(1, 2, 1, 2)
    assert flow_image(flow).tolist() == [[[[255, 1]], [[128, 160]], [[0, 0]]]]
    assert flow_image(flow).dtype == torch.uint8


def test_a_resized_field_has_vectors_of_the_new_size():
    field = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1).expand(2, 2, 60, 80)
    small = resize_flow(field, 30, 20)
    assert small.shape == (2, 2, 30, 20)
    torch.testing.assert_close(small[1, :, 7, 9], torch.tensor([0.75, -2.0]))
    assert resize_flow(field, 60, 80) is field
    wide = texture(0, 0, height=96, width=128), texture(4, -2, height=96, width=128)
    half = resize_flow(flow_between(*wide, "dis")[None], 48, 64)[0, :, 6:-6, 6:-6]
    torch.testing.assert_close(half.mean((1, 2)), torch.tensor([2.0, -1.0]), rtol=0, atol=0.02)


def test_what_cannot_be_is_refused(monkeypatch):
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"pair \(1, 2\) is not among 2 frames"):
        compute_flow(frames, [(0, 1), (1, 2)])
    with pytest.raises(ValueError, match=r"needs frames uint8 \(T, 3, H, W\), got torch.float32"):
        compute_flow(frames.float(), [(0, 1)])
    with pytest.raises(ValueError, match="'farneback' is neither"):
        compute_flow(frames, [(0, 1)], "farneback")
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantise(torch.tensor([0.0, float("nan")]))
    with pytest.raises(ValueError, match="bound_px must be above 0"):
        quantise(torch.zeros(1), 0.0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ReeltagError, match=r"pip install 'reeltag\[flow\]'"):
        compute_flow(frames, [(0, 1)], "dis")


def test_opencv_without_contrib_does_dis_alone(monkeypatch):
    monkeypatch.delattr(cv2, "optflow")
    assert require_opencv("dis") is cv2
    with pytest.raises(ReeltagError, match="contrib package"):
        require_opencv("tvl1")
