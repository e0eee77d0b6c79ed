"""Video classifiers of the transformers library: the library's own numbers, behind our interface."""

import sys

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import ReeltagError, StoreError, UnknownName
from reeltag.hub.published import from_published

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
KINDS = {
    "timesformer": {**SMALL, "intermediate_size": 96},
    "videomae": {**SMALL, "intermediate_size": 96},
    "vivit": {**SMALL, "intermediate_size": 96},
    "vjepa2": {**SMALL, "num_pooler_layers": 1, "mlp_ratio": 2.0, "pred_num_hidden_layers": 1},
}


@pytest.fixture
def library():
    return pytest.importorskip("transformers", reason="needs the extra `transformers`")


def theirs(library, kind, **settings):
    sizes = {"crop_size": 32, "frames_per_clip": 4} if kind == "vjepa2" else {"image_size": 32, "num_frames": 4}
    config = library.AutoConfig.for_model(kind, **KINDS[kind], **sizes, num_labels=7, **settings)
    torch.manual_seed(0)
    net = library.AutoModelForVideoClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_published_weights_give_the_librarys_logits(library, kind):
    net = theirs(library, kind)
    ours = from_published(net.state_dict(), "transformers", f"hf_{kind}", num_frames=4, size_px=32)
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), net(clip).logits, rtol=1e-5, atol=1e-6)
    assert ours.clip_shape == (4, 3, 32, 32)
    assert len(ours.blocks()) == 2


def test_videomae_without_mean_pooling_reads_the_first_token(library):
    net = theirs(library, "videomae", use_mean_pooling=False)
    ours = from_published(net.state_dict(), "transformers", "hf_videomae", num_frames=4, size_px=32)
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), net(clip).logits, rtol=1e-5, atol=1e-6)


def test_names_of_earlier_versions_are_read(library):
    earlier = [
        ("vivit.layers.", "vivit.encoder.layer."),
        *(
            (f"attention.{short}_proj", f"attention.attention.{word}")
            for short, word in zip("qkv", ("query", "key", "value"), strict=True)
        ),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ]
    net, weights = theirs(library, "vivit"), {}
    for key, tensor in net.state_dict().items():
        for new, old in earlier:
            key = key.replace(new, old)
        weights[key] = tensor
    ours = from_published(weights, "transformers", "hf_vivit", num_frames=4, size_px=32)
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), net(clip).logits, rtol=1e-5, atol=1e-6)
    del weights["vivit.embeddings.cls_token"]
    weights["strange"] = torch.ones(2)
    with pytest.raises(
        StoreError, match=r"missing \(1\): net.vivit.embeddings.cls_token; left over \(1\): net.strange"
    ):
        from_published(weights, "transformers", "hf_vivit", num_frames=4, size_px=32)


def test_a_saved_folder_gives_configuration_and_weights(library, tmp_path):
    net = theirs(library, "videomae")
    net.save_pretrained(tmp_path)
    ours = create_model("hf_videomae", num_labels=7, checkpoint=str(tmp_path), pretrained=True).eval()
    ours.classifier.load_state_dict(net.classifier.state_dict())
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), net(clip).logits, rtol=1e-5, atol=1e-6)
    again = create_model("hf_videomae", num_labels=7, checkpoint=str(tmp_path)).eval()  # as a bundle is read
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again(clip), ours(clip), rtol=0, atol=0)
    with pytest.raises(ReeltagError, match="cannot be read"):
        create_model("hf_videomae", num_labels=7, checkpoint=str(tmp_path / "none"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_all_models(library, kind):
    torch.manual_seed(1)
    options = {"num_labels": 5, "num_frames": 4, "size_px": 32, "config": KINDS[kind]}
    model = create_model(f"hf_{kind}", **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    clip = torch.randn(2, 4, 3, 32, 32)
    model.set_gradient_checkpointing()
    model(clip).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.set_gradient_checkpointing(False)
    model.eval()
    with torch.inference_mode():
        both = model(clip)
        torch.testing.assert_close(model(clip[:1]), both[:1], rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(model(clip).float(), both, rtol=0.1, atol=0.1)
        pixels = torch.randint(256, (1, 4, 3, 32, 32), dtype=torch.uint8)
        assert model(pixels).shape == (1, 5)
    for wrong in ((1, 6, 3, 32, 32), (1, 4, 3, 48, 48)):
        with pytest.raises(ValueError, match=r"takes 4 frames of 32x32, got"):
            model(torch.zeros(wrong))
    with pytest.raises(ValueError, match="channels"):
        model(torch.zeros(1, 4, 2, 32, 32, dtype=torch.uint8))
    exported = torch.export.export(model, (clip,), strict=False).module()
    torch.testing.assert_close(exported(clip), both, rtol=1e-4, atol=1e-5)
    model.reset_classifier(2)
    assert model(clip).shape == (2, 2)


@pytest.mark.parametrize(("kind", "gmacs"), [("videomae", 180.0), ("timesformer", 196.0)])
def test_base_models_cost_what_their_papers_say(library, kind, gmacs):
    with torch.device("meta"):
        model = create_model(f"hf_{kind}", num_labels=400)
    assert model.flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ReeltagError, match=r"pip install reeltag\[transformers\]"):
        create_model("hf_videomae", num_labels=3)
    with pytest.raises(UnknownName, match=r"No hf_ model is called 'videomea'. Did you mean 'videomae'"):
        create_model("hf_videomea", num_labels=3)
