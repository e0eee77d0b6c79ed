"""Networks on raw waveforms against their published ports under drawn weights."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

from reeltag.hub.published import from_published

RECORDS = Path(__file__).parent / "records"
RAW = json.loads((RECORDS / "very-deep-convnets-raw-waveforms__models.json").read_text())["items"]


def generator(text):
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def drawn(entries):
    weights = {}
    for key, shape in entries:
        last, rng = key.replace("/", ".").split(".")[-1], generator(key)
        if last == "num_batches_tracked":
            weights[key] = torch.zeros(shape, dtype=torch.long)
        elif last in ("running_mean", "moving_mean") or (len(shape) == 1 and last in ("bias", "beta")):
            weights[key] = 0.1 * torch.randn(shape, generator=rng)
        elif last in ("running_var", "moving_variance") or len(shape) == 1:
            weights[key] = 0.5 + torch.rand(shape, generator=rng)
        else:
            weights[key] = torch.randn(shape, generator=rng) * math.sqrt(2 / max(1, math.prod(shape[1:])))
    return weights


def waveform(stored):
    x = torch.randn(stored["shape"], generator=generator(f"input:{stored['name']}"))
    return stored["scale"] * x.flatten(1)


def agree(ours, theirs, tolerance=1e-4):
    values = torch.tensor(theirs["values"])
    worst = (ours.flatten()[: len(values)] - values).abs().max().item()
    assert worst <= tolerance * max(theirs["std_pop"], 1e-12), worst
    assert list(ours.shape) == theirs["shape"]


@pytest.mark.parametrize("name", list(RAW))
def test_raw_waveform_networks(name):
    stored = RAW[name]
    model = from_published(drawn(stored["weights"]), source="m34", name=name)
    assert sum(p.numel() for p in model.parameters()) == stored["trainable_params"]
    with torch.inference_mode():
        features = model.forward_features(waveform(stored["input"]))
        agree(model.forward_head(features, pre_logits=True), stored["global_average"])
        agree(model.forward_head(features).softmax(1), stored["softmax_out"])


@pytest.mark.parametrize("name", ["EnvNet", "EnvNetV2"])
def test_envnets_with_both_epsilons_of_batch_norm(name):
    stored = json.loads((RECORDS / f"esc-learner__{name}_forward.json").read_text())
    ours = {"EnvNet": "envnet", "EnvNetV2": "envnet_v2"}[name]
    weights = drawn(stored["weights"])
    prefix = stored["key_prefix"]
    x = waveform(stored["input"])
    for options, expected in (({}, "eps1e-5"), ({"bn_eps": 2e-5}, "eps2e-5")):
        model = from_published({k.removeprefix(prefix): v for k, v in weights.items()}, "envnet", ours, **options)
        assert sum(p.numel() for p in model.parameters()) == stored["n_params"]
        with torch.inference_mode():
            agree(model(x), next(value for key, value in stored["out"].items() if key.startswith(expected)))
