"""What every registered model promises; a quick member of each family runs always, the others are marked slow."""

import copy
import re

import pytest
import torch

from reeltag.build import create_model
from reeltag.models import MODELS

# (T, H) at which a model runs here, by pattern; the first that matches counts. All others: 8 frames of 64 px.
SIZES = [
    (r"^(tin|trn|trn_single)_mini$", (8, 32)),  # made for their number of frames
    (r"_mini$", (4, 32)),
    (r"^p3d_\d+$", (16, 64)),  # halves time four times
    (r"^mvit_", (16, 224)),  # one size alone
]
FRAMES = {"num_clusters": 4, "groups": 4, "fc": 16, "hidden": 8, "num_layers": 2, "num_kernels": 8}
SNIPPETS = [f"frames_{name}" for name in ("conv", "late", "slow", "local", "time_conv")]


def _frames(name):
    """Models on features at sizes that a test can afford; `hidden` is a list of widths in some."""
    small = {"hidden": (16, 8)} if name in SNIPPETS else {"hidden": 8}
    known = MODELS.schema(name)
    return {key: value for key, value in {**FRAMES, **small}.items() if key in known and known[key].default is not None}


STREAMS = {
    modality: {"name": name, "backbone_options": {"widths": [8, 16]}}
    for modality, name in (("rgb", "tsm_mini"), ("flow", "tsn_mini"), ("audio", "logmel_mini"))
}
OPTIONS = {
    "c3d": {"num_frames": 8, "size_px": 64},
    "convnet_lstm": {"backbone": "mini"},
    "two_stream_3d_fused": {"backbone": "mini"},
    **{name: {"streams": STREAMS, "width": 16} for name in ("fusion_gated", "fusion_transformer")},
    **{name: _frames(name) for name in MODELS if name.startswith("frames_")},
    **{name: {**_frames(name), "backbone": "tsm_mini"} for name in MODELS if name.startswith("nlg_")},
}
# One member of each family; these run in every test run.
PLAIN = list(MODELS)
QUICK = [
    *(f"{prefix}mini" for prefix, (key, _) in MODELS.families.items() if key == "backbone"),
    *("convnet_lstm", "two_stream_3d_fused", "m3", "fusion_gated", "fusion_transformer"),
]
SLOW = [name for name in PLAIN if name not in QUICK]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def build(name, **options):
    return create_model(name, num_labels=5, **{**OPTIONS.get(name, {}), **options})


def small_input(name, model, batch=2, frames=None, side=None):
    """Drawn input of the model's kind, small where the model allows."""
    if model.input_kind == "fusion":
        px = 32 if name.startswith("fusion_") else 64 if "mini" in name else 96
        clips = model.example_input(batch)[0].items()
        return ({k: x if k == "audio" else torch.randn(batch, 9, x.shape[2], px, px) for k, x in clips},)
    if model.input_kind not in ("rgb", "flow"):
        return model.example_input(batch)
    num_frames, px = next((size for pattern, size in SIZES if re.search(pattern, name)), (8, 64))
    channels = model.clip_shape[1]
    return (torch.randn(batch, frames or num_frames, channels, side or px, side or px),)


def rows(inputs, number):
    return tuple({k: v[:number] for k, v in x.items()} if isinstance(x, dict) else x[:number] for x in inputs)


def stirred(model):
    """Add noise to every weight: zero-initialised norms and identity starts would hide parameters from the gradient."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def unreached(model):
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_every_model_is_built_on_the_meta_device_and_gives_logits_at_its_published_size(name):
    with torch.device("meta"):
        model = build(name).eval()
        logits = model(*model.example_input(2))
    assert logits.shape == (2, 5)
    assert model.flops() > 0
    assert any("classifier." in key for key in model.state_dict())
    assert type(model).__doc__


@pytest.mark.parametrize("name", ALL)
def test_model_contract(name):
    torch.manual_seed(0)
    model = stirred(build(name))
    inputs = small_input(name, model)
    torch.manual_seed(2)
    logits = model(*inputs)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    idle = unreached(model)
    model.eval()
    if idle:  # a batch norm takes a constant away while it trains: what adds one before it counts in evaluation alone
        model(*inputs).square().sum().backward()
        idle = unreached(model)
    assert not idle, f"parameters the loss does not reach: {idle}"
    with torch.inference_mode():
        both = model(*inputs)
        scale = both.std().item()
        torch.testing.assert_close(model(*inputs), both, rtol=0, atol=0)  # nothing random is left
        # Clips do not mix; batch size 1 sums in another order.
        torch.testing.assert_close(model(*rows(inputs, 1)), both[:1], rtol=1e-3, atol=1e-3 * scale)
        twin = build(name).eval()
        twin.load_state_dict(model.state_dict())
        # The state dict is the whole state; sums may round otherwise where a copy's memory is aligned otherwise.
        torch.testing.assert_close(twin(*inputs), both, rtol=0, atol=1e-5 * scale)
        features = model.forward_head(model.forward_features(*inputs), pre_logits=True)
        assert features.shape == (2, model.num_features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(*inputs).float()
        assert low.isfinite().all()
        assert (low - both).abs().max() < 0.2 * both.abs().max() + 0.1
    model.reset_classifier(3)
    assert model(*inputs).shape == (2, 3)
    model.set_bias(torch.tensor([1.0, 2.0, 3.0]))


def _try(model, inputs):
    try:
        with torch.inference_mode():
            return "", model(*inputs)
    except ValueError as error:
        return str(error), None


@pytest.mark.parametrize("name", ALL)
def test_other_lengths_and_sizes_are_taken_or_refused_with_a_reason(name):
    model = build(name).eval()
    if model.input_kind not in ("rgb", "flow"):
        pytest.skip("takes no clip")
    frames, _, px = small_input(name, model)[0].shape[1], 3, small_input(name, model)[0].shape[-1]
    for changed in ({"frames": frames + 4}, {"frames": 1}, {"side": px + 32}, {"side": px - 7}):
        reason, logits = _try(model, small_input(name, model, batch=1, **changed))
        assert re.search(r"\d", reason) if reason else logits.shape == (1, 5), f"{changed}: {reason}"
    with pytest.raises(ValueError, match=r"\(B, T, C, H, W\)"):
        model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="channels"):
        model(torch.zeros(1, frames, 9, px, px))


@pytest.mark.parametrize("name", ALL)
def test_blocks_are_recomputed_to_the_same_gradient(name):
    torch.manual_seed(0)
    model = stirred(build(name)).eval()  # eval: dropout draws nothing, norms are fixed
    if not list(model.blocks()):
        pytest.skip("has no blocks")
    spared = copy.deepcopy(model)
    spared.set_gradient_checkpointing()
    inputs = small_input(name, model, batch=1)
    for each in (model, spared):
        each(*inputs).sum().backward()
    for (key, ours), other in zip(model.named_parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, ours.grad, rtol=1e-4, atol=1e-5 * ours.grad.abs().max().item(), msg=key)


# torch.nn.LSTM lists its weights a second time while it is traced; the program is right.
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")
@pytest.mark.parametrize("name", ALL)
def test_model_exports_to_the_same_function(name):
    model = stirred(build(name)).eval()
    inputs = small_input(name, model, batch=1)
    program = torch.export.export(model, inputs, strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(*inputs), model(*inputs), rtol=1e-4, atol=1e-4)


# Short-time Fourier transforms are complex: they run as they are, between two compiled halves.
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning")
@pytest.mark.parametrize("name", ALL)
def test_model_compiles_to_the_same_function(name):
    model = stirred(build(name)).eval()
    inputs = small_input(name, model, batch=1)
    with torch.inference_mode():
        expected = model(*inputs)
        found = torch.compile(model)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
