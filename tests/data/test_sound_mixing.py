"""Sound pressure and the mixture of two sounds, against the published code of between-class learning."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

from reeltag.data.sound_mixing import a_weighting_db, mix_sounds, pressure_share, sound_pressure_db

RECORD = json.loads(
    (Path(__file__).parents[1] / "parity/records/bc_learning_sound__bc_mix_and_augment.json").read_text()
)
RATES = [16_000, 44_100]


def drawn(name, length):
    generator = torch.Generator().manual_seed(zlib.crc32(f"input:{name}".encode()))
    return torch.randn(length, generator=generator).double()


def sounds(rate_hz):
    """The two sounds of the record: noise, and a louder tone of 1 kHz."""
    length = RECORD["items"][str(rate_hz)]["N"]
    tone = torch.sin(torch.arange(length, dtype=torch.float64) * 2 * math.pi * 1000 / rate_hz)
    return 0.1 * drawn(f"bc:s1:{rate_hz}", length), 0.3 * tone + 0.01 * drawn(f"bc:s2:{rate_hz}", length)


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_weighting_and_pressure(rate_hz):
    record = RECORD["items"][str(rate_hz)]
    size = {16_000: 2048, 44_100: 4096}[rate_hz]
    weights = a_weighting_db(torch.linspace(0, rate_hz / 2, size // 2 + 1, dtype=torch.float64))
    assert weights[:16].tolist() == pytest.approx(record["a_weight_first16"], rel=1e-8)
    assert float(weights.sum()) == pytest.approx(record["a_weight_sum"], rel=1e-8)
    for sound, name in zip(sounds(rate_hz), ("gain_db_s1", "gain_db_s2"), strict=True):
        assert sound_pressure_db(sound, rate_hz) == pytest.approx(max(record[name]["values"]), rel=1e-8)
    assert sound_pressure_db(torch.zeros(record["N"]), rate_hz) == pytest.approx(record["gain_silence_db"], abs=1e-9)


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
def test_mixture(rate_hz, ratio):
    record = RECORD["items"][str(rate_hz)][f"mix_r={ratio}"]
    first, second = sounds(rate_hz)
    share = pressure_share(sound_pressure_db(first, rate_hz), sound_pressure_db(second, rate_hz), ratio)
    assert share == pytest.approx(record["t"], rel=1e-7)  # the record keeps 9 digits
    mixed = mix_sounds(first, second, ratio, rate_hz)
    assert mixed[:16].tolist() == pytest.approx(record["mixed"]["first"], rel=1e-6, abs=1e-9)
    assert mixed[-8:].tolist() == pytest.approx(record["mixed"]["last8"], rel=1e-6, abs=1e-9)
    assert float(mixed.norm()) == pytest.approx(record["mixed"]["l2"], rel=1e-7)


@pytest.mark.parametrize("rate_hz", RATES)
def test_mixture_with_silence(rate_hz):
    record = RECORD["items"][str(rate_hz)]["mix_with_silence_r.5"]
    first, _ = sounds(rate_hz)
    mixed = mix_sounds(first, torch.zeros_like(first), 0.5, rate_hz)
    assert mixed[:8].tolist() == pytest.approx(record["first"], rel=1e-6)
    assert float(mixed.abs().sum()) == pytest.approx(record["abs_sum"], rel=1e-6)


def test_the_ends_of_the_ratio_and_short_sounds():
    first, second = sounds(16_000)
    assert torch.equal(mix_sounds(first, second, 1.0, 16_000), first)
    assert torch.equal(mix_sounds(first, second, 0.0, 16_000), second)
    assert math.isfinite(sound_pressure_db(first[:10], 16_000))
    with pytest.raises(ValueError, match="at one length"):
        mix_sounds(first, second[:-1], 0.5, 16_000)
    with pytest.raises(ValueError, match="at least one sample"):
        sound_pressure_db(first[:0], 16_000)


def test_an_equal_ratio_is_heard_as_equal():
    """What the correction is for: at r = 1/2 both parts of the mixture have the same pressure, whatever theirs were."""
    first, second = sounds(16_000)
    loud = 10 * first
    share = pressure_share(sound_pressure_db(loud, 16_000), sound_pressure_db(second, 16_000), 0.5)
    parts = sound_pressure_db(share * loud, 16_000), sound_pressure_db((1 - share) * second, 16_000)
    assert parts[0] == pytest.approx(parts[1], abs=1e-6)
