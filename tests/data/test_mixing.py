"""Mixed clips: the formulas, and draws that depend on (seed, epoch, row, copy) alone."""

import pytest
import torch

from reeltag.build import build_datasets
from reeltag.data.dataset import make_loader
from reeltag.data.footage import open_footage
from reeltag.data.mixing import MixedClips, at_depth, blend, blend_zero_mean, draw_ratio, paste, smooth
from reeltag.recipe import load_recipe
from reeltag.sections import MixSection


def drawn(seed, *shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_blend_is_the_weighted_sum_frame_by_frame():
    first, second = drawn(0, 2, 3, 8, 8), drawn(1, 2, 3, 8, 8)
    mixed = blend(first, second, 0.3)
    assert mixed.dtype == torch.uint8
    expected = 0.3 * first.double() + 0.7 * second.double()
    assert (mixed.double() - expected).abs().max() <= 0.5 + 1e-4
    assert torch.equal(blend(first, second, 1.0), first)
    assert torch.equal(blend(first, second, 0.0), second)
    floats = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(blend(*floats, 0.25), 0.25 * floats[0] + 0.75 * floats[1])
    with pytest.raises(ValueError, match="at one size"):
        blend(first, second[:1], 0.5)


def test_zero_mean_form_by_hand():
    generator = torch.Generator().manual_seed(2)
    first = 3 * torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64) + 5
    second = torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64) - 1
    ratio = 0.4
    p = 1 / (1 + float(first.std(correction=0) / second.std(correction=0)) * (1 - ratio) / ratio)
    expected = (p * (first - first.mean()) + (1 - p) * (second - second.mean())) / (p**2 + (1 - p) ** 2) ** 0.5
    mixed = blend_zero_mean(first, second, ratio)
    torch.testing.assert_close(mixed, expected)
    assert float(mixed.mean()) == pytest.approx(0, abs=1e-9)
    # Both parts of the mixture have the contrast that the ratio says.
    parts = [p * float(first.std(correction=0)), (1 - p) * float(second.std(correction=0))]
    assert parts[0] / sum(parts) == pytest.approx(ratio)


def test_zero_mean_form_of_pictures_keeps_the_brightness():
    first, second = drawn(3, 2, 3, 16, 16) // 2 + 64, drawn(4, 2, 3, 16, 16) // 4 + 20
    mixed = blend_zero_mean(first, second, 0.25)
    assert mixed.dtype == torch.uint8
    wanted = 0.25 * float(first.float().mean()) + 0.75 * float(second.float().mean())
    assert float(mixed.float().mean()) == pytest.approx(wanted, abs=1.0)  # rounding and what is cut off at 0 and 255
    assert torch.equal(blend_zero_mean(first, second, 1.0), first)
    flat = torch.full_like(second, 9)
    assert blend_zero_mean(first, flat, 0.5).float().isfinite().all()
    assert blend_zero_mean(flat, flat, 0.5).unique().tolist() == [9]


def test_paste_replaces_one_box_in_every_frame_and_counts_its_pixels():
    first, second = torch.zeros(3, 2, 10, 20), torch.ones(3, 2, 10, 20)
    for seed in range(30):
        mixed, share = paste(first, second, 0.6, torch.Generator().manual_seed(seed))
        assert float(1 - mixed.mean()) == pytest.approx(share, abs=1e-6)
        assert all(torch.equal(mixed[0, 0], mixed[t, c]) for t in range(3) for c in range(2))
        rows, columns = mixed[0, 0].nonzero(as_tuple=True)
        assert len(rows) == (1 + rows.max() - rows.min()) * (1 + columns.max() - columns.min())  # one box
        assert share >= 0.6 - 0.02  # a box at the border is smaller; 6 x 13 pixels are 0.39 of all
    assert paste(first, second, 1.0, torch.Generator().manual_seed(0))[1] == 1.0


def test_ratios_have_their_distribution():
    for section, variance in [
        (MixSection(name="between_class"), 1 / 12),
        (MixSection(name="mixup", alpha=0.2), 1 / (4 * (2 * 0.2 + 1))),  # of Beta(a, a)
        (MixSection(name="cutmix", alpha=3.0), 1 / (4 * 7)),
    ]:
        ratios = torch.tensor([draw_ratio(section, torch.Generator().manual_seed(seed)) for seed in range(3000)])
        assert float(ratios.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(ratios.var()) == pytest.approx(variance, rel=0.06)  # 3000 draws


def test_smoothed_targets():
    assert smooth(torch.tensor([0.0, 1.0, 0.5]), 0.2).tolist() == pytest.approx([0.1, 0.9, 0.5])


@pytest.fixture
def clips(mini_packed, small_recipe):
    recipe = load_recipe(small_recipe, ["data.flip=false", "data.gain=0"])
    return build_datasets(recipe, open_footage(mini_packed))[0]


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in ("video", "targets", "ignore"))


def test_draws_depend_on_the_key_alone(clips):
    rows = list(range(32))
    dataset = MixedClips(clips, rows, MixSection(name="between_class"))
    item = dataset[2, 5, 0]
    dataset[7, 9, 1]
    assert equal(item, dataset[2, 5, 0])
    assert not equal(item, dataset[3, 5, 0])
    assert not equal(item, dataset[2, 5, 1])
    keys = [[(0, row, 0) for row in range(first, first + 4)] for first in (0, 4)]
    alone, together = (list(make_loader(dataset, keys, workers=workers)) for workers in (0, 2))
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_targets_are_mixed_like_the_clips(clips):
    rows = list(range(32))
    dataset = MixedClips(clips, rows, MixSection(name="between_class"))
    ratios = set()
    for row in range(8):
        own, targets = clips.targets[row], dataset[0, row, 0]["targets"]
        alone = targets[own > targets]  # of the first clip alone: the ratio
        assert targets.dtype == torch.float32
        assert ((targets >= 0) & (targets <= 1)).all()
        assert (targets != own).any()  # the partner has other labels
        if len(alone):
            assert torch.allclose(alone, alone[0].expand_as(alone))
            others = targets[(own == 0) & (targets > 0)]
            assert torch.allclose(others, 1 - alone[0].expand_as(others), atol=1e-6)
            ratios.add(round(float(alone[0]), 4))
    assert len(ratios) > 4


def test_features_are_brought_to_one_depth():
    features = torch.arange(6).float().view(1, 6, 1)
    assert at_depth(features, 3).flatten().tolist() == [1, 3, 5]
    assert at_depth(features, 6).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert at_depth(features[:, :2], 5).flatten().tolist() == [0, 0, 1, 1, 1]


def test_no_mixing_at_probability_zero_and_ignore_is_united(clips):
    plain = MixedClips(clips, list(range(32)), MixSection(name="mixup", probability=0.0))
    assert torch.equal(plain[0, 3, 0]["video"], clips[0, 3, 0]["video"])
    clips.ignore = torch.zeros_like(clips.ignore)
    clips.ignore[:, 2] = True
    clips.ignore[3, 2] = False
    assert MixedClips(clips, list(range(32)), MixSection(name="mixup"))[0, 3, 0]["ignore"][2]


def test_a_partner_that_cannot_be_read_leaves_the_clip_as_it_is(clips):
    from reeltag.errors import MediaError

    own, clip = clips[0, 3, 0], clips.footage.clip

    def broken(row, choose):
        if row != 3:
            raise MediaError("corrupt", "x.mp4", "broken on purpose")
        return clip(row, choose)

    clips.footage.clip = broken
    mixed = MixedClips(clips, list(range(32)), MixSection(name="mixup"))
    assert torch.equal(mixed[0, 3, 0]["video"], own["video"])
    assert mixed[0, 4, 0]["bad"]["reason"] == "corrupt"
