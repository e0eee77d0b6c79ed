"""Networks on sound: other lengths and rates than the published ones, and what a spectrogram network sees of 2 s."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.layers.spectrogram import preset


@pytest.mark.parametrize("shorter", ["tile", "zeros"])
def test_envnet_fills_a_shorter_sound_up_to_its_length(shorter):
    torch.manual_seed(0)
    model = create_model("envnet", num_labels=3, num_samples=24014, shorter=shorter).eval()
    assert not model.fixed_length
    x = torch.randn(2, 20000)
    whole = torch.cat([x, x[:, :4014]], 1) if shorter == "tile" else torch.nn.functional.pad(x, (2007, 2007))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), model(whole), rtol=0, atol=0)
    with pytest.raises(ValueError, match="takes 24014 samples, the waveform has 30000"):
        model(torch.randn(1, 30000))


def test_envnet_takes_its_own_length_alone_unless_it_is_told_otherwise():
    model = create_model("envnet", num_labels=3)
    assert model.fixed_length
    with pytest.raises(ValueError, match="takes 24014 samples, the waveform has 20000"):
        model(torch.randn(1, 20000))
    with pytest.raises(RecipeError, match="shorter is one of refuse, tile, zeros, got 'wrap'"):
        create_model("envnet", num_labels=3, shorter="wrap")


@pytest.mark.parametrize(("name", "options"), [("envnet_v2", {"num_samples": 40000}), ("m34_res", {}), ("m5", {})])
def test_other_rates(name, options):
    with torch.device("meta"):
        model = create_model(name, num_labels=3, rate_hz=16000, **options)
        assert model.rate_hz == 16000
        assert model(*model.example_input(2)).shape == (2, 3)


# Frames of 10 ms, bands, total stride 8 of the small network and 32 of the large ones, for 1.5, 2 and 2.5 s.
MAPS = {
    "logmel_mini": [(128, 8, 19), (128, 8, 26), (128, 8, 32)],
    "logmel_resnet34": [(512, 2, 5), (512, 2, 7), (512, 2, 8)],
    "logmel_vgg16": [(512, 2, 4), (512, 2, 6), (512, 2, 7)],
    "mfcc_resnet50": [(2048, 2, 5), (2048, 2, 7), (2048, 2, 8)],
    "mfcc_se_resnet50": [(2048, 2, 5), (2048, 2, 7), (2048, 2, 8)],
}


@pytest.mark.parametrize("name", list(MAPS))
def test_spectrogram_networks_see_a_map_of_some_bands_and_moments(name):
    with torch.device("meta"):
        model = create_model(name, num_labels=3).eval()
        for seconds, expected in zip((1.5, 2.0, 2.5), MAPS[name], strict=True):
            features = model.forward_features(torch.zeros(2, round(seconds * 16000)))
            assert tuple(features.shape[1:]) == expected
            assert model.forward_head(features).shape == (2, 3)


@pytest.mark.parametrize("name", ["logmel_mini", "mfcc_mini"])
def test_a_preset_is_changed_by_its_options(name):
    options = {"n_fft": 1024, "window": 1024, "hop": 512, "f_min_hz": 50.0}
    with torch.device("meta"):
        model = create_model(name, num_labels=3, spectrogram_options=options)
        assert model.front(torch.zeros(2, 16000)).shape == (2, 64 if name == "logmel_mini" else 40, 1 + 16000 // 512)
    settings = (model.front if name == "logmel_mini" else model.front.log_mel).settings
    assert settings == preset("speech", **options)
    with pytest.raises(RecipeError, match="hopp"):
        create_model(name, num_labels=3, spectrogram_options={"hopp": 512})
