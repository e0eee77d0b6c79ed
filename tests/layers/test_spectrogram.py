"""Spectrograms by hand: bands, frames, padding and what is refused."""

import math

import pytest
import torch

from reeltag.errors import UnknownName
from reeltag.layers.mel_filterbank import hz_to_mel, mel_filterbank, mel_to_hz
from reeltag.layers.spectrogram import LogMel, Mfcc, SpectrogramSettings, delta, preset


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_the_scales_are_inverted_and_known_at_1_khz(scale):
    hz = torch.tensor([0.0, 200.0, 1000.0, 6400.0], dtype=torch.float64)
    torch.testing.assert_close(mel_to_hz(hz_to_mel(hz, scale), scale), hz, rtol=1e-12, atol=1e-9)
    expected = {"slaney": 15.0, "htk": 2595 * math.log10(1 + 1000 / 700)}
    assert hz_to_mel(hz, scale)[2].item() == pytest.approx(expected[scale], rel=1e-12)
    if scale == "slaney":
        assert hz_to_mel(hz, scale)[3].item() == pytest.approx(42.0, rel=1e-12)  # 27 steps for a factor of 6.4


def test_triangles_have_a_top_of_one_or_an_area_of_one():
    peak = mel_filterbank(16000, 16384, 10, norm="peak")
    assert peak.max(1).values.min() > 0.97
    area = mel_filterbank(16000, 16384, 10)
    torch.testing.assert_close(area.sum(1) * 16000 / 16384, torch.ones(10, dtype=torch.float64), rtol=2e-3, atol=0)


def test_a_tone_is_loudest_in_its_band():
    settings = preset("speech")
    t = torch.arange(16000) / 16000
    tops = mel_to_hz(torch.linspace(0, hz_to_mel(torch.tensor([8000.0]), "slaney").item(), 66), "slaney")[1:-1]
    for band in (10, 30, 50):
        tone = (2 * math.pi * tops[band] * t).sin().unsqueeze(0)
        assert LogMel(settings)(tone)[0, :, 50].argmax() == band


def test_frames_are_counted_and_clips_do_not_mix():
    torch.manual_seed(0)
    x = torch.randn(2, 4000)
    for name in ("vggish", "panns", "librosa", "speech", "freesound"):
        front = LogMel(name)
        found = front(x)
        assert found.shape == (2, front.settings.n_mels, front.settings.num_frames(4000))
        torch.testing.assert_close(front(x[1:])[0], found[1], rtol=1e-5, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(front(x), found)  # float32 inside


def test_silence_is_finite_and_short_clips_are_refused():
    silence = torch.zeros(1, 4000, requires_grad=True)
    for name in ("vggish", "panns", "librosa"):
        found = LogMel(name)(silence)
        assert found.isfinite().all()
        assert found.std() < 1e-5
    with pytest.raises(ValueError, match="399 samples are less than one frame of 400"):
        LogMel("vggish")(torch.zeros(1, 399))
    with pytest.raises(ValueError, match="512 samples cannot be reflected by 512"):
        LogMel("panns")(torch.zeros(1, 512))
    with pytest.raises(ValueError, match=r"a waveform is \(B, N\)"):
        LogMel("panns")(torch.zeros(4000))
    with pytest.raises(UnknownName, match=r"No spectrogram preset is called 'vgish'. Did you mean 'vggish'"):
        LogMel("vgish")
    with pytest.raises(ValueError, match=r"mel bands must lie in 0..8000 Hz"):
        SpectrogramSettings(16000, f_max_hz=9000)
    with pytest.raises(ValueError, match=r"num_coefficients must be in 1..64"):
        Mfcc("speech", 65)


def test_the_cosine_basis_is_orthonormal_and_delta_is_the_slope():
    basis = Mfcc("speech", 64).basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-6)
    line = 3.0 * torch.arange(20.0).view(1, 1, -1) - 2
    torch.testing.assert_close(delta(line), torch.full((1, 1, 20), 3.0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="width must be odd"):
        delta(line, 4)
