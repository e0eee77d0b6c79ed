"""Export of a trained run: the file's numbers, facts and axes, its document's examples, and what goes wrong."""

import copy
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reeltag
from reeltag.data.footage import open_footage
from reeltag.data.sources import FileSource
from reeltag.errors import ReeltagError, StoreError
from reeltag.inference.calibrate_model import ScoredOn, calibrate
from reeltag.inference.export.capture import capture
from reeltag.inference.export.check import check
from reeltag.inference.export.exporting import open_exported
from reeltag.inference.export.network import Input, PortableNetwork, draw
from reeltag.inference.export.onnx_file import write_onnx
from reeltag.inference.load import load_trained
from reeltag.inference.predict import Tagger
from reeltag.media import open_media
from reeltag.models.scoring import model_inputs, probabilities

DOCUMENT = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
NUMPY_ALONE, TORCH_ALONE, FROM_A_FILE = BLOCKS


@pytest.fixture(scope="module")
def exported(mini_run, tmp_path_factory):
    """The small TSM as ONNX, in a folder of its own."""
    pytest.importorskip("onnxscript")
    return reeltag.export(mini_run, tmp_path_factory.mktemp("onnx") / "tagger.onnx")


@pytest.fixture(scope="module")
def archive(mini_run, tmp_path_factory):
    return reeltag.export(mini_run, tmp_path_factory.mktemp("pt2") / "tagger.pt2", views="2x3")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_probabilities_of_a_calibrated_run_are_the_taggers(mini_run, mini_packed, clip_file, tmp_path, activation):
    run = shutil.copytree(mini_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    assert "activation: sigmoid" in recipe
    (run / "recipe.yaml").write_text(recipe.replace("activation: sigmoid", f"activation: {activation}"))
    calibrate(run, ScoredOn(mini_packed, "all", device="cpu", workers=0), method="platt")
    made = reeltag.export(run, tmp_path / "tagger.pt2")
    opened, tagger = open_exported(made.path), fp32(run)
    assert opened.facts["calibration"]["slopes"] == tagger.calibration.slopes
    with open_media(clip_file) as media:
        batch, _ = tagger.look(FileSource("clip", media))
    found, logits = opened(made.network.inputs_from(model_inputs(tagger.loaded.model, batch)))
    assert found.numpy() == pytest.approx(tagger.scores_of(batch).numpy(), abs=1e-5)
    raw = Tagger(tagger.loaded, calibrated=False).scores_of(batch)
    assert float((raw - found).abs().max()) > 0.02
    assert probabilities(logits, activation).numpy() == pytest.approx(raw.numpy(), abs=1e-5)


@pytest.fixture
def clip_file(mini_manifest):
    return sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[0]


def fp32(run):
    """The run's tagger without the hardware's bf16, which an exported file does not use."""
    tagger = reeltag.Tagger.from_pretrained(run, device="cpu")
    tagger.loaded = replace(tagger.loaded, autocast=nullcontext)
    return tagger


def run_block(block, folder, *, without):
    """Run a block of the document in `folder`, and fail if it loaded what it says it does without."""
    check = f"\nimport sys\nassert not {set(without)!r} & set(sys.modules), sorted(sys.modules)\n"
    tail = "\nnp.save('found.npy', np.asarray(probabilities))\n"
    subprocess.run([sys.executable, "-c", block + tail + check], cwd=folder, check=True, timeout=300)
    return np.load(folder / "found.npy")


def test_the_file_gives_the_models_numbers_at_any_batch_length_and_size(exported, archive, mini_run):
    model = load_trained(str(mini_run), device="cpu").model
    for each in (exported, archive):
        opened = open_exported(each.path)
        assert [row["shape"] for row in each.facts["inputs"]] == [["batch", "frames", 3, "height", "width"]]
        for shape in ((1, 4, 32, 32), (3, 4, 32, 32), (2, 7, 40, 52)):
            batch, frames, height, width = shape
            clip = torch.randint(0, 256, (batch, frames, 3, height, width), dtype=torch.uint8)
            with torch.inference_mode():
                expected = model(clip)
            probabilities, logits = opened([clip])
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.std().item())
            torch.testing.assert_close(probabilities, expected.sigmoid(), rtol=0, atol=1e-5)


def test_the_file_says_what_a_caller_must_know(exported, archive, mini_run):
    trained = load_trained(str(mini_run), device="cpu").trained
    facts = exported.facts
    assert facts["labels"] == trained.label_names
    assert facts["thresholds"] == trained.thresholds
    assert (facts["weights_hash"], facts["recipe_hash"]) == (trained.weights_hash, trained.recipe.hash)
    assert facts["frames"] == {"num_frames": 4, "sampling": "segments", "stride": 1, "fps": None}
    assert facts["picture"] == {"short_side_px": 40, "keep_aspect": True, "crop_px": 32}
    assert facts["views"] == {"clips": 1, "crops": 1, "average": "probabilities"}
    assert archive.facts["views"] == {"clips": 2, "crops": 3, "average": "probabilities"}
    assert [row["name"] for row in facts["outputs"]] == ["probabilities", "logits"]
    assert facts["reeltag"] == reeltag.__version__


def test_the_documents_examples_run_without_reeltag(exported, archive, mini_run, tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 3, 32, 32), dtype=np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    shutil.copy(exported.path, tmp_path / "tagger.onnx")
    shutil.copy(archive.path, tmp_path / "tagger.pt2")
    with torch.inference_mode():
        expected = load_trained(str(mini_run), device="cpu").model(torch.from_numpy(clips)).sigmoid().numpy()
    by_numpy = run_block(NUMPY_ALONE, tmp_path, without={"torch", "reeltag"})
    by_torch = run_block(TORCH_ALONE, tmp_path, without={"onnxruntime", "reeltag"})
    np.testing.assert_allclose(by_numpy, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_torch, expected, rtol=0, atol=1e-5)


def test_the_documents_way_from_a_file_equals_tag(exported, mini_run, clip_file, tmp_path):
    shutil.copy(exported.path, tmp_path / "tagger.onnx")
    shutil.copy(clip_file, tmp_path / "clip.mp4")
    (found,) = run_block(FROM_A_FILE, tmp_path, without={"torch", "reeltag"})
    tags = fp32(mini_run)(clip_file)
    by_label = dict(zip(tags.labels, tags.scores, strict=True))
    # Pillow's bilinear filter and torch's round a byte differently now and then.
    np.testing.assert_allclose(found, [by_label[name] for name in exported.facts["labels"]], rtol=0, atol=1e-3)


def test_a_check_on_clips_compares_all_views_and_finds_another_models_file(exported, archive, mini_packed, mini_run):
    footage = open_footage(mini_packed)
    held = check(archive, open_exported(archive.path), footage, split="test", at_most=3)
    assert (held.on, held.num_videos, held.num_decisions, held.num_equal) == ("clips", 3, 90, 90)
    assert held.largest < 1e-5
    assert held.holds()
    assert min(held.ms_model, held.ms_file) > 0
    other = replace(exported, network=PortableNetwork(_stirred(exported.loaded.model), ["video"], "sigmoid"))
    wrong = check(other, open_exported(exported.path))
    assert (wrong.on, wrong.num_videos) == ("drawn inputs", 16)
    assert wrong.largest > 1e-3
    assert not wrong.holds()


def _stirred(model):
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        twin.classifier.weight.add_(0.1)
    return twin


def test_weights_that_do_not_fit_lie_beside_the_file_and_go_with_it(mini_run, tmp_path):
    pytest.importorskip("onnxscript")
    out = tmp_path / "tagger.onnx"
    big = reeltag.export(mini_run, out, max_bytes=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tagger.onnx", "tagger.onnx.data"]
    assert big.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "tagger.onnx.data").stat().st_size > 10_000
    assert big.difference < 1e-5
    probabilities, _ = open_exported(out)(draw(big.inputs, 2))
    assert probabilities.shape == (2, 30)


class _Bessel(nn.Module):
    input_kind = "rgb"

    def forward(self, clip):
        return torch.special.bessel_j0(clip.float().mean((2, 3, 4)))


def test_an_operator_without_a_form_in_onnx_is_named(tmp_path):
    pytest.importorskip("onnxscript")
    inputs = [Input("video", "uint8", (4, 3, 8, 8), (None, None, None, None))]
    program, inputs = capture(PortableNetwork(_Bessel(), ["video"], "sigmoid"), inputs)
    with pytest.raises(ReeltagError, match=r"the operator \S*bessel_j0\S* cannot be converted; use --format pt2"):
        write_onnx(program, inputs, {"model": "bessel"}, tmp_path, "x.onnx")


class _Lengths(nn.Module):
    input_kind = "rgb"

    def forward(self, clip):
        return clip.float().mean((1, 2, 3)) if int(clip.sum()) % 2 else clip.float().mean((1, 2, 4))


def test_a_network_whose_course_depends_on_values_is_refused():
    inputs = [Input("video", "uint8", (4, 3, 8, 8), (None, None, None, None))]
    with pytest.raises(
        ReeltagError, match=r"torch.export makes no graph of _Lengths: .*data-dependent.*reeltag.Tagger"
    ):
        capture(PortableNetwork(_Lengths(), ["video"], "sigmoid"), inputs)


def test_a_damaged_or_foreign_file_is_said(archive, tmp_path):
    (tmp_path / "half.pt2").write_bytes(archive.path.read_bytes()[: archive.num_bytes // 2])
    with pytest.raises(StoreError, match="half.pt2 is no file of `reeltag export`, or is damaged"):
        open_exported(tmp_path / "half.pt2")
    with pytest.raises(StoreError, match="none.pt2 does not exist"):
        open_exported(tmp_path / "none.pt2")
