"""Log-mel and MFCC against librosa, the VGGish front end and PANNs' front end."""

import json
import zlib
from pathlib import Path

import pytest
import torch

from reeltag.layers.mel_filterbank import mel_filterbank
from reeltag.layers.spectrogram import LogMel, Mfcc, SpectrogramSettings, delta, preset

RECORDS = Path(__file__).parent / "records"


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())


def wave(name, count, rate_hz):
    """Two tones and noise, as every record of sound has it."""
    t = torch.arange(count, dtype=torch.float64) / rate_hz
    noise = torch.randn(count, generator=torch.Generator().manual_seed(zlib.crc32(f"input:{name}".encode())))
    return 0.3 * (2 * torch.pi * 440 * t).sin() + 0.1 * (2 * torch.pi * 3000 * t).sin() + 0.05 * noise


def agree(ours, theirs, tolerance=1e-4):
    """Compare kept values and sums, relative to the record's root mean square."""
    flat = ours.double().flatten()
    assert list(ours.shape) == theirs["shape"]
    scale = theirs["l2"] / flat.numel() ** 0.5
    first = torch.tensor(theirs["first"], dtype=torch.float64)
    assert (flat[: len(first)] - first).abs().max() <= tolerance * scale
    assert (flat[-8:] - torch.tensor(theirs["last8"], dtype=torch.float64)).abs().max() <= tolerance * scale
    assert flat.norm().item() == pytest.approx(theirs["l2"], rel=tolerance)
    assert abs(flat.sum().item() - theirs["sum"]) <= tolerance * theirs["abs_sum"]


LIBROSA = record("librosa__logmel_mfcc")["items"]
SETTINGS = {
    16000: preset("speech"),
    22050: preset("librosa"),
    44100: preset("freesound"),
}


@pytest.mark.parametrize("key", list(LIBROSA))
def test_mel_decibel_mfcc_and_deltas_of_librosa(key):
    item = LIBROSA[key]
    settings = SpectrogramSettings(
        item["sr"], item["n_fft"], item["n_fft"], item["hop_length"], item["n_mels"], item.get("fmin", 0.0)
    )
    if item.get("htk") or "htk" in key:
        settings = SpectrogramSettings(
            item["sr"], item["n_fft"], item["n_fft"], item["hop_length"], item["n_mels"], scale="htk"
        )
    else:
        assert settings == SETTINGS[item["sr"]]  # the presets are these
    x = wave(item["name"], item["n"], item["sr"]).float().unsqueeze(0)
    log_mel = LogMel(settings)
    assert settings.num_frames(item["n"]) == item["mel_power"]["shape"][1]
    agree(log_mel.mel_power(x)[0], item["mel_power"])
    agree(log_mel(x)[0], item["power_to_db_ref1"])
    mfcc = Mfcc(settings)(x)
    agree(mfcc[0], item["mfcc40"])
    agree(delta(mfcc)[0], item["mfcc_delta9"], tolerance=3e-4)  # differences of large, close numbers in float32


def test_the_front_end_of_vggish():
    stored = record("torchvggish__logmel_frontend")
    settings = preset("vggish")
    filters = mel_filterbank(16000, 512, 64, 125, 7500, scale="htk", norm="peak", linear_in="mel")
    assert filters.sum().item() == pytest.approx(stored["mel_matrix"]["sum"], rel=1e-9)
    assert int((filters > 0).sum()) == stored["mel_matrix"]["nonzero"]
    x = wave(stored["input"]["NAME"], stored["input"]["n"], 16000)
    assert settings.num_frames(48000) == stored["items"]["frames"]
    agree(LogMel("vggish")(x.unsqueeze(0))[0].T, stored["items"]["log_mel"])


def test_the_front_end_of_panns():
    stored = record("audioset_tagging_cnn__logmel_frontend")
    x = wave(stored["input"]["name"], stored["input"]["n"], 32000).float()
    agree(LogMel("panns")(x.unsqueeze(0)).transpose(1, 2).unsqueeze(1), stored["out"])
