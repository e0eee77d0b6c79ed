"""A bundle is the run folder's tagger, whole or refused."""

import json

import pytest
import torch

import reeltag
from reeltag.errors import StoreError
from reeltag.hub.bundle import load_weights, read_trained, write_bundle


@pytest.fixture
def bundle(mini_run, tmp_path):
    return write_bundle(read_trained(mini_run), tmp_path / "bundle")


def test_bundle_and_run_tag_alike(bundle, mini_run, mini_manifest):
    video = sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[0]
    from_run, from_bundle = (reeltag.Tagger.from_pretrained(path, device="cpu")(video) for path in (mini_run, bundle))
    assert from_run == from_bundle
    assert len(from_run.labels) == 30
    assert json.loads(from_run.to_json())["labels"][0]["label"] == from_run.labels[0]
    files = {path.name for path in bundle.iterdir()}
    assert files == {
        "model.safetensors",
        "config.json",
        "labels.json",
        "thresholds.json",
        "README.md",
        "checksums.json",
    }


def test_thresholds_decide_what_is_present(bundle, mini_manifest):
    video = sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[0]
    names = json.loads((bundle / "labels.json").read_text())
    (bundle / "thresholds.json").write_text(json.dumps(dict.fromkeys(names, 0.0)))
    with pytest.raises(StoreError, match=r"thresholds.json has changed"):
        reeltag.Tagger.from_pretrained(bundle)
    from reeltag.store.checkpoint import write_checksums

    write_checksums(bundle)
    assert len(reeltag.Tagger.from_pretrained(bundle, device="cpu")(video).present) == 30


def test_a_changed_byte_is_refused(bundle):
    weights = bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StoreError, match="has changed since it was written"):
        read_trained(bundle)


def test_an_existing_bundle_is_not_overwritten(bundle, mini_run):
    with pytest.raises(StoreError, match="already holds a bundle"):
        write_bundle(read_trained(mini_run), bundle)


def test_weights_load_into_another_label_set_but_for_the_classifier(bundle):
    options = {"backbone_options": {"widths": (8, 16)}}
    same = reeltag.create_model("tsm_mini", num_labels=30, pretrained=str(bundle), **options)
    stored = read_trained(bundle).weights
    assert all(torch.equal(tensor, stored[name]) for name, tensor in same.state_dict().items())
    model = reeltag.create_model("tsm_mini", num_labels=4, **options)
    with pytest.warns(UserWarning, match="another number of labels"):
        fresh = load_weights(model, str(bundle))
    assert sorted(fresh) == ["classifier.bias", "classifier.weight"]
    stem = "backbone.net.stem.0.weight"
    assert torch.equal(model.state_dict()[stem], stored[stem])
    with pytest.raises(StoreError, match="does not fit this model"):
        load_weights(reeltag.create_model("tsm_mini", num_labels=30), str(bundle))
