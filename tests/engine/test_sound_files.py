"""From a folder of sound files to a tagger: import, check, pack, train, evaluate, tag."""

import json
import sys
import wave

import numpy as np
import pytest

import reeltag
from reeltag.cli import main


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """24 sounds of a third of a second: hums of about 300 Hz and whistles of about 2 kHz, in noise."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for label, hz in (("hum", 300), ("whistle", 2000)):
        (folder / label).mkdir()
        for number in range(12):
            t = np.arange(5333) / 16000
            samples = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.8, 1.25) * t) + rng.normal(0, 0.02, len(t))
            with wave.open(str(folder / label / f"{number:02d}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes((samples * 32767).astype("<i2").tobytes())
    return folder


RECIPE = """
data: {audio: {seconds: 0.25, speed: 1.1}}
model: {name: logmel_mini, backbone_options: {widths: [8, 16]}}
train: {epochs: 8, batch_size: 8, optimizer: adamw, lr: 0.02, clip_norm: 5}
"""


def test_a_folder_of_sounds_trains_a_tagger(sounds, tmp_path, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reeltag", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code or 0, capsys.readouterr().out

    (tmp_path / "r.yaml").write_text(RECIPE)
    (sounds / "hum" / "broken.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    manifest = tmp_path / "m.parquet"
    code, out = run("data", "import", sounds, "--out", manifest, "--json")
    assert code == 0
    assert json.loads(out)["clips"] == 25
    code, out = run("data", "check", manifest, "--json", "--max-bad", "0.1")
    audit = json.loads(out)
    assert (code, audit["audio_share"], len(audit["unreadable"])) == (0, 1.0, 1)
    assert audit["duration_s"] == pytest.approx(24 / 3, abs=0.01)
    assert audit["near_duplicates"] == []
    code, _ = run("data", "split", manifest, "--val", "0.25", "--test", "0")
    assert code == 0
    code, _ = run("data", "pack", manifest, "--out", tmp_path / "packed", "--workers", "1")
    for data, out in ((manifest, "files"), (tmp_path / "packed", "packed")):
        code, text = run("train", tmp_path / "r.yaml", "--manifest", data, "--out", tmp_path / out, "--device", "cpu",
                         "--workers", "0", "--json")  # fmt: skip
        assert code == 0
        assert json.loads(text)[0]["val"]["map_macro"] == pytest.approx(1.0)
    tagger = reeltag.Tagger.from_pretrained(tmp_path / "files", device="cpu")
    for label in ("hum", "whistle"):
        tags, other = (
            tagger(sounds / name / "03.wav") for name in sorted(("hum", "whistle"), key=lambda n: n != label)
        )
        assert tags.modalities == ["audio"]
        assert tags.duration_s == pytest.approx(1 / 3, abs=1e-3)
        own, theirs = (dict(zip(each.labels, each.scores, strict=True))[label] for each in (tags, other))
        assert own > theirs
    code, out = run("tag", tmp_path / "files", sounds, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert len(lines) == 25  # a folder gives its sound files to a model of sound
    assert sum("error" in line for line in lines) == 1
