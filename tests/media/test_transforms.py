import pytest
import torch

from reeltag.media.transforms import (
    CenterCrop,
    ChannelPermutation,
    Compose,
    GainOffset,
    HorizontalFlip,
    MultiScaleCornerCrop,
    RandomCrop,
    RandomResizedCrop,
    RandomShortSideCrop,
    Resize,
    ResizeTo,
    ThreeCrops,
    TimeReverse,
    VerticalFlip,
    crop,
    negated,
    resize,
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def clip() -> torch.Tensor:
    """Each pixel says where it is: red = row, green = column, blue = frame."""
    rows, columns, frames = torch.arange(60), torch.arange(80), torch.arange(4)
    out = torch.zeros(4, 3, 60, 80, dtype=torch.uint8)
    out[:, 0], out[:, 1], out[:, 2] = rows[:, None].byte(), columns[None].byte(), frames[:, None, None].byte()
    return out


def corner(clip: torch.Tensor) -> tuple[int, int]:
    return int(clip[0, 0, 0, 0]), int(clip[0, 1, 0, 0])


def test_crops_have_their_place_and_all_frames_share_it(clip):
    out, _ = CenterCrop(41)(clip, drawn())
    assert out.shape == (4, 3, 41, 41)
    assert corner(out) == (9, 19)
    assert [corner(one) for one in ThreeCrops(60)(clip)] == [(0, 0), (0, 10), (0, 20)]
    tall = clip.transpose(2, 3)  # rows and columns change places, the colours still name the old ones
    assert [corner(one) for one in ThreeCrops(50)(tall)] == [(5, 0), (5, 15), (5, 30)]
    generator, places = drawn(), set()
    for _ in range(300):
        out, _ = RandomCrop(57)(clip, generator)
        assert (out[:, 0] == out[0, 0]).all()
        places.add(corner(out))
    assert {row for row, _ in places} == set(range(4))
    assert {column for _, column in places} == set(range(24))


def test_resize_keeps_shape_and_mean(clip):
    out, _ = Resize(30)(clip)
    assert out.shape == (4, 3, 30, 40)
    assert out.dtype == torch.uint8
    assert out[0, 0, :5, 0].tolist() == [1, 3, 5, 7, 9]  # row k lies at 2 k + 0.5, the first at 0.71; rounded
    assert abs(out.float().mean() - clip.float().mean()) < 0.6
    assert ResizeTo(12, 34)(clip)[0].shape == (4, 3, 12, 34)
    assert Resize(60)(clip)[0] is clip


def test_uint8_resize_equals_the_float_one_rounded():
    noise = torch.randint(256, (2, 3, 50, 70), dtype=torch.uint8, generator=drawn())
    expected = torch.nn.functional.interpolate(noise.float(), (20, 30), mode="bilinear", antialias=True)
    assert (resize(noise, 20, 30).float() - expected).abs().max() <= 1.01  # rounding of both passes
    channels_last = noise.contiguous(memory_format=torch.channels_last)
    assert (resize(channels_last, 20, 30).int() - resize(noise, 20, 30).int()).abs().max() <= 1


def test_corner_crops_take_the_published_sizes_and_places(clip):
    transform = MultiScaleCornerCrop(52)
    sides = [60, 52, 45, 39]  # 60 * 0.875 = 52.5; 39.6
    generator, seen = drawn(), set()
    for _ in range(600):
        out, _ = transform(clip, generator)
        assert out.shape == (4, 3, 52, 52)
        rows, columns = out[0, 0, :, 0].int(), out[0, 1, 0, :].int()
        height = round(60 * (int(rows[-1] - rows[0]) + 1) / 60)
        width = int(columns[-1] - columns[0]) + 1
        seen.add((min(sides, key=lambda s: abs(s - height)), min(sides, key=lambda s: abs(s - width))))
    allowed = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert seen == allowed


def test_short_side_crop_covers_its_range(clip):
    transform = RandomShortSideCrop(32, 40, 28)
    generator, widths = drawn(), []
    for _ in range(200):
        out, _ = transform(clip, generator)
        assert out.shape == (4, 3, 28, 28)
        widths.append(int(out[0, 1, 0, -1]) - int(out[0, 1, 0, 0]) + 1)
    # 28 of a short side of 32 to 40 are 42 to 52.5 of 60 rows; a resized ramp loses a pixel at its ends.
    assert 39 <= min(widths) <= 43
    assert 50 <= max(widths) <= 53
    with pytest.raises(ValueError, match="crop_px <= min_px"):
        RandomShortSideCrop(20, 40, 28)


def test_resized_crop_draws_area_and_shape(clip):
    transform = RandomResizedCrop(24, scale=(0.25, 0.5), ratio=(0.5, 2.0))
    generator, areas, ratios = drawn(), [], []
    for _ in range(300):
        out, _ = transform(clip, generator)
        assert out.shape == (4, 3, 24, 24)
        height = (int(out[0, 0, -1, 0]) - int(out[0, 0, 0, 0])) * 24 / 23
        width = (int(out[0, 1, 0, -1]) - int(out[0, 1, 0, 0])) * 24 / 23
        areas.append(height * width / 4800)
        ratios.append(width / height)
    assert 0.22 < min(areas) < 0.28
    assert 0.45 < max(areas) < 0.55
    assert min(ratios) < 0.6
    assert max(ratios) > 1.7
    wide = torch.zeros(1, 3, 10, 200, dtype=torch.uint8)
    assert RandomResizedCrop(8, scale=(1, 1))(wide, drawn())[0].shape == (1, 3, 8, 8)  # none fits: the fallback


def test_flips_mirror_and_say_so(clip):
    out, applied = HorizontalFlip(1.0)(clip, drawn())
    assert torch.equal(out, clip.flip(3))
    assert applied == {"horizontal"}
    out, applied = VerticalFlip(1.0)(clip, drawn())
    assert torch.equal(out, clip.flip(2))
    assert applied == {"vertical"}
    out, applied = TimeReverse(1.0)(clip, drawn())
    assert torch.equal(out, clip.flip(0))
    assert applied == {"time"}
    out, applied = HorizontalFlip(0.0)(clip, drawn())
    assert out is clip
    assert applied == frozenset()
    generator = drawn()
    done = sum(bool(HorizontalFlip(0.3)(clip[:1, :, :2, :2], generator)[1]) for _ in range(1000))
    assert 255 < done < 345  # 300, three standard deviations


@pytest.mark.parametrize(("zero", "right", "left"), [(128, 138, 118), (0.0, 10.0, -10.0)])
def test_flips_turn_flow_round(zero, right, left):
    dtype = torch.uint8 if isinstance(zero, int) else torch.float32
    flow = torch.full((2, 2, 4, 6), zero, dtype=dtype)
    flow[:, 0, :, :3] = right  # the left half moves to the right
    flow[:, 1] = right
    out, _ = HorizontalFlip(1.0)(flow, drawn())
    assert (out[:, 0, :, 3:] == left).all()
    assert (out[:, 0, :, :3] == zero).all()
    assert (out[:, 1] == right).all()
    out, _ = VerticalFlip(1.0)(flow, drawn())
    assert (out[:, 1] == left).all()
    assert torch.equal(out[:, 0], flow[:, 0])
    out, _ = TimeReverse(1.0)(flow, drawn())
    assert (out[:, 1] == left).all()
    assert (flow[:, 1] == right).all()  # the input is not changed


def test_uint8_flow_is_negated_about_128():
    values = torch.tensor([0, 1, 127, 128, 129, 255], dtype=torch.uint8)
    assert negated(values).tolist() == [0, 255, 129, 128, 127, 1]


def test_colour_changes_are_exact_and_drawn_once(clip):
    out, _ = ChannelPermutation(1.0)(clip, drawn(1))
    order = torch.randperm(3, generator=_after_one_draw(1))
    assert torch.equal(out, clip[:, order])
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    out, _ = GainOffset(gain=(1.5, 1.5), offset=(-20, -20))(values, drawn())
    expected = (torch.arange(256) * 1.5 - 20).round().clamp(0, 255).byte()
    assert torch.equal(out[1, 2].flatten(), expected)
    with pytest.raises(ValueError, match="uint8"):
        GainOffset()(clip.float(), drawn())
    with pytest.raises(ValueError, match="3 channels, got 2"):
        ChannelPermutation()(clip[:, :2], drawn())


def _after_one_draw(seed: int) -> torch.Generator:
    generator = drawn(seed)
    torch.rand((), generator=generator)
    return generator


def test_compose_is_reproducible_and_collects_flips(clip):
    pipeline = Compose((MultiScaleCornerCrop(32), HorizontalFlip(0.5), VerticalFlip(1.0), TimeReverse(1.0)))
    first, applied = pipeline(clip, drawn(5))
    again, _ = pipeline(clip, drawn(5))
    assert torch.equal(first, again)
    assert {"vertical", "time"} <= applied <= {"horizontal", "vertical", "time"}
    out, applied = Compose((HorizontalFlip(1.0), HorizontalFlip(1.0)))(clip, drawn())
    assert torch.equal(out, clip)
    assert applied == frozenset()


def test_crops_are_views_and_do_not_copy(clip):
    assert crop(clip, 3, 5, 10, 10).data_ptr() == clip[0, 0, 3, 5:].data_ptr()
    assert CenterCrop(30)(clip)[0]._base is not None


def test_what_does_not_fit_is_named(clip):
    for transform in (CenterCrop(61), RandomCrop(61)):
        with pytest.raises(ValueError, match="61 px does not fit into 80 x 60; put a Resize before it"):
            transform(clip, drawn())
    with pytest.raises(ValueError, match=r"a clip is \(T, C, H, W\)"):
        Resize(10)(clip[0])
