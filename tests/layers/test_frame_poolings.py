"""What every pooling over frames promises: masks, independent clips, gradients, state dict, autocast."""

import inspect

import pytest
import torch

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling

DIM = 16
GENERATOR = torch.Generator().manual_seed(0)
CENTERS = torch.randn(4, DIM, generator=GENERATOR)
GAUSSIANS = {"weights": torch.ones(4), "means": CENTERS, "sigmas": torch.rand(4, DIM, generator=GENERATOR) + 0.5}
SMALL = {"dim": DIM, "hidden": (8, 6)}
POOLINGS = [name for name in LAYERS if inspect.isclass(LAYERS[name]) and issubclass(LAYERS[name], FramePooling)]
OPTIONS = {
    "bow": {"centers": CENTERS},
    "soft_bow": {"centers": CENTERS},
    "vlad": {"centers": CENTERS},
    "fisher_vector": GAUSSIANS,
    "nextvlad": {"dim": DIM, "num_clusters": 4, "groups": 4},
    "attention_pool": {"dim": DIM, "hidden": 8, "gated": True},
    "attentive_probe": {"dim": DIM, "num_queries": 2, "num_heads": 4},
    "lstm": {"dim": DIM, "hidden": 8, "num_layers": 2},
    "blstm": {"dim": DIM, "hidden": 8},
    "gru": {"dim": DIM, "hidden": 8},
    "lstm_per_frame": {"dim": DIM, "num_labels": 5, "hidden": 8, "num_layers": 2},
    "conv_pooling": SMALL,
    "late_pooling": SMALL,
    "slow_pooling": SMALL,
    "local_pooling": SMALL,
    "time_conv_pooling": SMALL | {"num_kernels": 6},
    "mean_pool": {"dim": DIM},
    "max_pool": {"dim": DIM},
}
VARIANTS = [
    ("netvlad", {"dim": DIM, "num_clusters": 4, "batch_norm": False}),
    ("netfv", {"dim": DIM, "num_clusters": 4, "coupled": True, "second_order_intra": True}),
    ("dbof", {"dim": DIM, "num_clusters": 4, "pool": "average_and_max", "activation": "none"}),
    ("soft_dbow", {"dim": DIM, "num_clusters": 4, "with_max": True}),
    ("gated_dbow", {"dim": DIM, "num_clusters": 4, "batch_norm": False}),
    ("vlad", {"centers": CENTERS, "intra": True, "power": 0.5}),
    ("gru", {"dim": DIM, "hidden": 8, "num_layers": 2, "reset": "before", "output": "state", "backward": True}),
    ("lstm", {"dim": DIM, "hidden": 8, "num_layers": 2, "output": "state", "backward": True}),
    ("blstm", {"dim": DIM, "hidden": 8, "num_layers": 2, "output": "state"}),
    ("lstm_per_frame", {"dim": DIM, "num_labels": 5, "hidden": 8, "activation": "sigmoid", "fuse": "last"}),
    ("local_pooling", SMALL | {"window": 4, "stride": 2, "num_windows": 3}),
]
CASES = [(name, OPTIONS.get(name, {"dim": DIM, "num_clusters": 4})) for name in POOLINGS] + VARIANTS
IDS = [f"{name}{'-variant' if i >= len(POOLINGS) else ''}" for i, (name, _) in enumerate(CASES)]
every_pooling = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
LENGTHS = torch.tensor([12, 5, 1])


def built(name, options):
    """The layer with every parameter and statistic moved off its start, where zeros could hide a fault."""
    torch.manual_seed(1)
    layer = LAYERS.build(name, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, value in layer.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.add_(0.3 * torch.rand_like(value))
    return layer


def frames():
    x = torch.randn(3, 12, DIM, generator=torch.Generator().manual_seed(2))
    return x, torch.arange(12) < LENGTHS.unsqueeze(1)


def test_all_poolings_are_here():
    assert set(POOLINGS) >= {*OPTIONS, "netvlad", "netrvlad", "netvlagd", "netfv", "soft_dbow", "gated_dbow", "dbof"}


@pytest.mark.parametrize(("extra", "garbage"), [(1, float("nan")), (7, 50.0), (300, float("inf")), (300, -3e38)])
@every_pooling
def test_padding_never_changes_a_result(name, options, extra, garbage):
    layer = built(name, options).eval()
    x, mask = frames()
    longer = torch.cat([x.masked_fill(~mask.unsqueeze(-1), garbage), torch.full((3, extra, DIM), garbage)], dim=1)
    with torch.no_grad():
        clean = layer(x.masked_fill(~mask.unsqueeze(-1), 0), mask)
        dirty = layer(longer, torch.cat([mask, torch.zeros(3, extra, dtype=torch.bool)], dim=1))
        alone = [layer(x[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]  # cut to its length, without a mask
    assert clean.shape == (3, layer.out_features)
    assert clean.isfinite().all()
    assert clean.abs().sum() > 0
    torch.testing.assert_close(dirty, clean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat(alone), clean, rtol=1e-4, atol=1e-5)  # sums of another length round otherwise


@every_pooling
def test_padding_never_changes_a_training_step(name, options):
    x, mask = frames()
    grads, states = [], []
    for extra in (0, 40):
        layer = built(name, options).train()
        longer = torch.cat([x.masked_fill(~mask.unsqueeze(-1), float("nan")), torch.full((3, extra, DIM), 9.0)], dim=1)
        longer.requires_grad_()
        padding = torch.cat([mask, torch.zeros(3, extra, dtype=torch.bool)], dim=1)
        out = layer(longer, padding)
        if out.requires_grad:
            out.square().mul(torch.linspace(1, 2, out.shape[1])).sum().backward()
            assert not longer.grad[~padding].any(), "gradient reaches padding"
        grads.append([p.grad for p in layer.parameters()])
        states.append(layer.state_dict())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-6)


@every_pooling
def test_frames_in_the_middle_can_be_padding(name, options):
    layer = built(name, options).eval()
    x = frames()[0]
    mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(5)) < 0.6
    with torch.no_grad():
        alone = [layer(x[i : i + 1, mask[i]]) for i in range(3)]
        torch.testing.assert_close(layer(x, mask), torch.cat(alone), rtol=1e-4, atol=1e-5)


@every_pooling
def test_a_clip_without_frames_is_finite(name, options):
    layer = built(name, options).train()
    x, mask = frames()
    mask[1] = False
    x.requires_grad_()
    out = layer(x, mask)
    assert out.isfinite().all()
    if out.requires_grad:
        out.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        assert not x.grad[1].any()


@every_pooling
def test_gradient_reaches_every_parameter(name, options):
    layer = built(name, options).train()
    x, mask = frames()
    weights = torch.randn(layer.out_features, generator=torch.Generator().manual_seed(3))
    out = layer(x, mask)
    if not list(layer.parameters()):
        return
    (out.square() * weights).sum().backward()
    idle = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"parameters that the loss does not reach: {idle}"
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@every_pooling
def test_clips_do_not_mix_and_the_state_dict_is_whole(name, options):
    layer = built(name, options).eval()
    x, mask = frames()
    torch.manual_seed(9)
    zeros = {k: torch.ones_like(v) if torch.is_tensor(v) else v for k, v in options.items()}
    twin = LAYERS.build(name, **zeros).eval()
    twin.load_state_dict(layer.state_dict())
    with torch.no_grad():
        whole = layer(x, mask)
        torch.testing.assert_close(layer(x[1:2], mask[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer(x.flip(0), mask.flip(0)), whole.flip(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(twin(x, mask), whole, rtol=0, atol=0)


@every_pooling
def test_bfloat16_autocast(name, options):
    layer = built(name, options).train()
    x, mask = frames()
    exact = layer(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, mask)
    assert half.isfinite().all()
    assert (
        half - exact
    ).abs().max() <= 0.06 * exact.abs().max()  # bfloat16 keeps 8 bits, products sum 16 to 64 of them
    if half.requires_grad:
        half.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


@every_pooling
def test_a_wrong_mask_is_refused(name, options):
    layer = built(name, options)
    with pytest.raises(ValueError, match="True = real frame"):
        layer(torch.randn(2, 3, DIM), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="True = real frame"):
        layer(torch.randn(2, 3, DIM), torch.ones(2, 3))
