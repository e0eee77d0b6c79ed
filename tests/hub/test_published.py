"""Published checkpoints: wrapped and prefixed ones are read, what does not fit is listed, code in files is not run."""

import json
import pickle

import pytest
import torch

import reeltag
from reeltag.build import create_model
from reeltag.cli import app
from reeltag.data.sources import FileSource
from reeltag.errors import StoreError, UnknownName
from reeltag.hub.convert.renaming import rename, unwrap
from reeltag.hub.converted_bundle import convert_file
from reeltag.hub.published import from_published, read_published
from reeltag.inference.load import load_trained
from reeltag.media import open_media


def test_wrappers_and_prefixes_are_taken_off():
    tensor = torch.ones(1)
    for wrapped in (
        {"a.b": tensor},
        {"state_dict": {"module.a.b": tensor}, "epoch": 3},
        {"model_state": {"a.b": tensor}, "cfg": "text"},
        {"model": {"state_dict": {"module.module.a.b": tensor}}},
    ):
        assert unwrap(wrapped) == {"a.b": tensor}
    with pytest.raises(StoreError, match="no tensors in this checkpoint; its keys are epoch, config"):
        unwrap({"epoch": 1, "config": {}})


def test_rules_apply_in_order_and_two_keys_for_one_name_are_refused():
    tensors = {"base.conv1.net.weight": torch.zeros(1), "base.bn.num_batches_tracked": torch.zeros(1)}
    assert list(rename(tensors, [(r"^base\.", "net."), (r"\.net\.weight$", ".weight")])) == ["net.conv1.weight"]
    with pytest.raises(StoreError, match="two keys of the checkpoint mean 'a'"):
        rename({"a": torch.zeros(1), "b": torch.zeros(1)}, [("b", "a")])


def test_files_are_read_as_weights_alone(tmp_path):
    weights = {"state_dict": {"module.a": torch.arange(3.0)}, "epoch": 7}
    torch.save(weights, tmp_path / "w.pth")
    assert torch.equal(unwrap(read_published(tmp_path / "w.pth"))["a"], torch.arange(3.0))

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"state_dict": Harm()}, tmp_path / "harm.pth")
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps({"blobs": Harm()}))
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    for name in ("harm.pth", "caffe2.pkl", "text.pth"):
        with pytest.raises(StoreError, match="cannot be read as weights alone"):
            read_published(tmp_path / name)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(StoreError, match="is not a file"):
        read_published(tmp_path / "none.pth")


def _published_tsm(num_labels=6):
    torch.manual_seed(0)
    model = create_model("tsm_resnet18", num_labels=num_labels).eval()
    weights = {}
    for key, value in model.state_dict().items():
        key = key.replace("backbone.net.", "base_model.").replace("classifier.", "new_fc.")
        weights[f"module.{key}"] = value
    return model, {"state_dict": weights, "best_prec1": 0.0}


def test_a_checkpoint_comes_back_as_the_same_function():
    model, checkpoint = _published_tsm()
    found = from_published(checkpoint, source="tsm", name="tsm_resnet18")
    x = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), model(x), rtol=0, atol=0)
    assert not found.training


def test_another_number_of_labels_replaces_the_classifier_and_says_so():
    model, checkpoint = _published_tsm()
    with pytest.warns(UserWarning, match="the tsm weights have 6 labels, 4 were asked for"):
        found = reeltag.hub.from_published(checkpoint, source="tsm", name="tsm_resnet18", num_labels=4)
    assert found.classifier.weight.shape == (4, 512)
    assert torch.equal(found.state_dict()["backbone.net.conv1.weight"], model.state_dict()["backbone.net.conv1.weight"])


def test_what_does_not_fit_is_listed():
    _, checkpoint = _published_tsm()
    checkpoint["state_dict"]["module.base_model.extra.weight"] = torch.zeros(2)
    del checkpoint["state_dict"]["module.base_model.layer4.1.bn2.weight"]
    with pytest.raises(StoreError) as error:
        from_published(checkpoint, source="tsm", name="tsm_resnet18")
    assert "missing (1): backbone.net.layer4.1.bn2.weight" in str(error.value)
    assert "left over (1): backbone.net.extra.weight" in str(error.value)
    with pytest.raises(StoreError, match="do not fit"):
        from_published(_published_tsm()[1], source="tsm", name="tsm_resnet50")
    with pytest.raises(UnknownName, match="No source is called 'tsn2'"):
        from_published(checkpoint, source="tsn2", name="tsm_resnet18")


def _saved(folder, num_labels):
    torch.save(_published_tsm(num_labels)[1], folder / f"{num_labels}.pth")
    return folder / f"{num_labels}.pth"


def test_convert_writes_a_bundle_that_tags(tmp_path, mini_manifest, capsys):
    call = ["convert", str(_saved(tmp_path, 400)), "--source", "tsm", "--name", "tsm_resnet18", "--json"]
    app([*call, "--out", str(tmp_path / "bundle"), "data.crop_px=32", "data.short_side_px=40"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_labels"] == 400
    assert facts["first_labels"][0] == "abseiling"  # the one shipped vocabulary of 400
    several, _ = convert_file(_saved(tmp_path, 313), tmp_path / "mmit", source="tsm", name="tsm_resnet18")
    assert several.recipe.test.activation == "sigmoid"  # Multi-Moments in Time
    tagger = reeltag.Tagger.from_pretrained(tmp_path / "bundle", device="cpu")
    tags = tagger(next(mini_manifest.parent.glob("videos/*.mp4")))
    assert len(tags.scores) == 400
    # Kinetics has one label a clip: scores share 1 among the labels, and are the softmax of the network's own logits.
    assert sum(tags.scores) == pytest.approx(1, abs=1e-5)
    loaded = tagger.loaded
    with FileSource(tags.video, open_media(tags.video)) as source, torch.inference_mode():
        logits = loaded.model.float()(tagger.look(source)[0]["video"][:, 0]).float()
    expected = logits.softmax(-1).sort(descending=True).values[0]
    torch.testing.assert_close(
        torch.tensor(tags.scores), expected, rtol=0.05, atol=1e-3
    )  # tagged in bfloat16 where fast
    with pytest.raises(reeltag.errors.ManifestError, match="600 labels, the weights have 400"):
        app([*call, "--labels", "kinetics600", "--out", str(tmp_path / "other")], standalone_mode=False)


def test_networks_on_sound_are_converted_with_their_rate_and_length(tmp_path):
    torch.manual_seed(0)
    model = create_model("m3", num_labels=10).eval()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv1d | torch.nn.BatchNorm1d | torch.nn.Linear)]
    weights = {}
    for number, layer in enumerate(layers):
        for key, value in layer.state_dict().items():
            if key == "weight" and value.ndim > 1:
                key, value = "kernel", value.movedim((0, 1), (-1, -2)) if value.ndim == 3 else value.T
            if key != "num_batches_tracked":
                weights[f"m3/{number}_layer/{key}"] = value.contiguous()
    torch.save(weights, tmp_path / "m3.pth")
    found, _ = convert_file(tmp_path / "m3.pth", tmp_path / "bundle", source="m34", name="m3")
    audio = found.recipe.data.audio
    assert (audio.rate_hz, audio.seconds) == (8000, 4.0)
    x = torch.randn(1, 32000)
    loaded = load_trained(str(tmp_path / "bundle"), device="cpu").model
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
