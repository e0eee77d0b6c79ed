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


def vggish_record(item):
    return json.loads((RECORDS / f"torchvggish__{item}.json").read_text())


def vggish_wave(count=48000):
    """Two tones and noise: the input of the front end's record, whose patches the network's record starts from."""
    t = torch.arange(count, dtype=torch.float64) / 16000
    noise = torch.randn(count, generator=generator("input:vggish:noise"))
    return (0.3 * (2 * torch.pi * 440 * t).sin() + 0.1 * (2 * torch.pi * 3000 * t).sin() + 0.05 * noise).float()


def vggish_components():
    weights = drawn([(key, shape) for key, shape in vggish_record("postprocess")["weights"]])
    return {key: (4 if "eigen" in key else 1) * value for key, value in weights.items()}


@pytest.fixture(scope="module")
def vggish_weights():
    return drawn(vggish_record("cnn")["weights"])


def test_vggish_from_the_waveform_to_embeddings(vggish_weights):
    stored = vggish_record("cnn")
    published = {key.removeprefix("vggish."): value for key, value in vggish_weights.items()}  # as in the file
    model = from_published(published, source="vggish", name="vggish", num_labels=4)
    assert sum(p.numel() for p in model.net.parameters()) == stored["n_params"]
    with torch.inference_mode():
        found = model.forward_features(vggish_wave().unsqueeze(0))
        agree(found[0], stored["out_after_final_relu"])
        model.net.final_relu = False
        agree(model.forward_features(vggish_wave().unsqueeze(0))[0], stored["out_pre_activation"])
        assert model(vggish_wave().unsqueeze(0)).shape == (1, 4)


def test_vggish_components_and_their_8_bits(vggish_weights):
    stored = vggish_record("postprocess")
    embeddings = torch.randn(3, 128, generator=generator("input:vggish:emb"))
    layer = from_published(vggish_components(), source="vggish", name="vggish_postprocess")
    with torch.inference_mode():
        agree(layer.components(embeddings), stored["pca_applied"])
        for rounding, expected in (("nearest", "torch_round"), ("down", "tf_truncate_uint8")):
            levels = layer.levels(embeddings, rounding)
            assert levels.dtype == torch.uint8
            assert levels.flatten().tolist() == stored[expected]["values"]
    whole = {**vggish_weights, **vggish_components()}
    model = from_published(whole, source="vggish", name="vggish", num_labels=4)
    assert model.postprocess == "nearest"
    with torch.inference_mode():
        x = vggish_wave().unsqueeze(0)
        levels = layer.levels(model.net(model.patches(x)[0]), "nearest")
        # As readers of AudioSet's features have it: q * 4 / 255 + 4 / 512 - 2.
        torch.testing.assert_close(model.forward_features(x)[0], levels * (4 / 255) + 4 / 512 - 2)
