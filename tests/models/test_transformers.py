"""Hugging Face's video classifiers: our interface gives the library's own logits. Skipped without the extra."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import RecipeError

SMALL = {
    "image_size": 32,
    "patch_size": 16,
    "num_frames": 4,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.mark.parametrize("architecture", ["videomae", "timesformer", "vivit"])
def test_logits_are_the_librarys_own(architecture, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dict(SMALL, **({"tubelet_size": [2, 16, 16]} if architecture == "vivit" else {}))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForVideoClassification.from_config(
        transformers.AutoConfig.for_model(architecture, num_labels=5, **config)
    ).eval()
    theirs.save_pretrained(tmp_path)
    model = create_model(f"hf_{architecture}", num_labels=5, weights=str(tmp_path)).eval()
    model.classifier.load_state_dict(theirs.classifier.state_dict())
    x = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), theirs(x).logits, rtol=1e-5, atol=1e-6)
    assert model.clip_shape == (4, 3, 32, 32)
    model.train().set_gradient_checkpointing()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="takes clips of 4x3x32x32, got 8x3x32x32"):
        model(torch.zeros(1, 8, 3, 32, 32))


def test_unknown_architectures_are_named():
    with pytest.raises(RecipeError, match="hf_videomamba is not known; there are hf_videomae"):
        create_model("hf_videomamba", num_labels=3)
