"""Which part of a sound a model hears: lengths, places, padding, speed, and what counts as silent."""

import math

import pytest
import torch

from reeltag.data.sound_views import even_test_crops, fit, level_db, training_crop, training_samples, trimmed
from reeltag.sections import AudioSection


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(count):
    return torch.arange(1, count + 1).float()


def test_levels_are_rms_of_full_scale():
    assert level_db(torch.ones(100)) == 0
    assert level_db(torch.full((100,), 0.001)) == pytest.approx(-60)
    assert level_db(torch.sin(2 * math.pi * torch.arange(1600) / 16)) == pytest.approx(-3.0103, abs=1e-4)
    assert level_db(torch.zeros(5)) == level_db(torch.zeros(0)) == -math.inf


def test_short_sounds_lie_between_zeros_or_start_over():
    assert fit(ramp(3), 8, "zeros").tolist() == [0, 0, 1, 2, 3, 0, 0, 0]
    assert fit(ramp(3), 8, "tile").tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert fit(ramp(9), 4, "zeros").tolist() == [1, 2, 3, 4]


def test_quiet_ends_are_cut_off_and_a_quiet_middle_is_not():
    wave = torch.tensor([0.0, 0.001, 0.5, 0.0, -0.1, 0.0009, 0.0])
    assert torch.equal(trimmed(wave, -60), wave[1:5])
    assert torch.equal(trimmed(wave, -20), wave[2:5])  # 0.1 is -20 dB, and stays
    assert torch.equal(trimmed(wave, -1), wave)  # nothing is so loud


def test_test_crops_are_even_and_a_single_one_is_the_middle():
    audio = AudioSection(rate_hz=1000, seconds=0.004)
    assert even_test_crops(ramp(10), audio, 1).tolist() == [[4, 5, 6, 7]]
    assert even_test_crops(ramp(10), audio, 3).tolist() == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]]
    assert even_test_crops(ramp(2), audio, 2).tolist() == [[0, 1, 2, 0]] * 2
    margins = audio.model_copy(update={"margin_seconds": 0.002})
    assert even_test_crops(ramp(4), margins, 2).tolist() == [[0, 0, 1, 2], [3, 4, 0, 0]]


def test_training_crops_have_random_places_and_lengths_within_their_ranges():
    audio = AudioSection(rate_hz=1000, seconds=0.02, min_seconds=0.015, max_seconds=0.025)
    assert training_samples(audio) == 25
    lengths, starts = set(), set()
    for seed in range(300):
        crop = training_crop(ramp(100), audio, generator(seed))
        assert crop.shape == (1, 25)
        heard = crop[0][crop[0] > 0]
        assert torch.equal(heard, torch.arange(heard[0], heard[0] + len(heard)))  # one piece, untouched
        lengths.add(len(heard))
        starts.add(int(heard[0]))
        assert torch.equal(crop, training_crop(ramp(100), audio, generator(seed)))
    assert lengths == set(range(15, 26))
    assert min(starts) <= 4
    assert max(starts) >= 75


def test_what_was_drawn_before_does_not_matter():
    audio = AudioSection(rate_hz=1000, seconds=0.02)
    used = generator(7)
    torch.rand(5, generator=used)
    assert torch.equal(training_crop(ramp(100), audio, used), training_crop(ramp(100), audio, generator(7)))


def test_speed_is_drawn_evenly_on_a_logarithmic_scale():
    audio = AudioSection(rate_hz=8000, seconds=1.0, speed=1.25)
    wave = torch.sin(2 * math.pi * 500 * torch.arange(8000 * 2) / 8000)
    factors = []
    for seed in range(60):
        crop = training_crop(wave, audio, generator(seed))[0]
        spectrum = torch.fft.rfft(crop * torch.hann_window(8000)).abs()
        factors.append(500 / float(spectrum.argmax()))
    logs = torch.tensor(factors).log() / math.log(1.25)
    assert float(logs.abs().max()) <= 1.01
    assert float(logs.mean()) == pytest.approx(0, abs=0.25)
    assert float(logs.var()) == pytest.approx(1 / 3, abs=0.12)  # of an even draw in [-1, 1], from 60


def test_sections_say_what_is_wrong():
    with pytest.raises(ValueError, match="min_seconds 3.0 must not exceed max_seconds 2.0"):
        AudioSection(min_seconds=3.0)
    with pytest.raises(ValueError, match="no sample is left"):
        AudioSection(rate_hz=1000, seconds=0.0001)
