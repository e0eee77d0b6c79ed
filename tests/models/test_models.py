"""What every model promises, and what TSN and TSM compute."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import RecipeError, UnknownName
from reeltag.layers.pixel_norm import PixelNorm
from reeltag.layers.temporal_shift import TemporalShift

NAMES = ["tsn_mini", "tsm_mini", "tsm_resnet18", "tsn_convnext_atto", "tsm_mobilenetv3_small_050"]


@pytest.mark.parametrize("name", NAMES)
def test_model_contract(name):
    torch.manual_seed(0)
    model = create_model(name, num_labels=5, dropout=0.0)
    with torch.no_grad():  # zero-initialised norms and identity starts would hide parameters from the gradient
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 4, 3, 64, 64)
    logits = model(x)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"parameters the loss does not reach: {idle}"
    model.eval()
    with torch.inference_mode():
        # Clips do not mix. The tolerance is for batch size 1 summing in another order.
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-4)
        twin = create_model(name, num_labels=5, dropout=0.0).eval()
        twin.load_state_dict(model.state_dict())
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)  # the state dict is the whole state
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        assert features.shape == (2, model.num_features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


def test_tsn_is_the_mean_of_single_frames_and_blind_to_their_order():
    torch.manual_seed(0)
    model = create_model("tsn_mini", num_labels=4).eval()
    x = torch.randint(0, 256, (2, 5, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        single = torch.stack([model(x[:, t : t + 1]) for t in range(5)]).mean(0)
        torch.testing.assert_close(model(x), single, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(x.flip(1)), model(x), rtol=1e-5, atol=1e-6)


def test_tsm_sees_the_order():
    torch.manual_seed(0)
    model = create_model("tsm_mini", num_labels=4).eval()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.ones_(norm.weight)
    torch.nn.init.normal_(model.classifier.weight)
    x = torch.randint(0, 256, (1, 6, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-2


@pytest.mark.parametrize(("backbone", "shifts"), [("resnet18", 8), ("resnet50", 16), ("resnet101", 18)])
def test_tsm_shifts_the_blocks_of_the_published_rule(backbone, shifts):
    with torch.device("meta"):
        model = create_model(f"tsm_{backbone}", num_labels=400)
    assert sum(isinstance(module, TemporalShift) for module in model.modules()) == shifts
    if backbone == "resnet50":
        assert sum(p.numel() for p in model.parameters()) == 24_327_632
        assert "backbone.net.layer1.0.conv1.net.weight" in model.state_dict()


def test_softmax_consensus_by_hand():
    torch.manual_seed(0)
    model = create_model("tsn_mini", num_labels=3, consensus="softmax").eval()
    x = torch.randn(2, 4, 3, 64, 64)
    with torch.inference_mode():
        frames = torch.stack(
            [model.classifier(model.backbone.pool(model.backbone.forward_features(x[:, t]))) for t in range(4)]
        )
        torch.testing.assert_close(model(x).exp(), frames.softmax(-1).mean(0), rtol=1e-5, atol=1e-6)


def test_pixels_are_normalised_inside_and_floats_pass():
    norm = PixelNorm((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 3.0], [0.0, 1.0]])
    torch.testing.assert_close(norm(pixels)[0, :, 0], expected, rtol=0, atol=1e-6)
    x = torch.randn(2, 3, 4, 4)
    assert norm(x) is x
    with pytest.raises(ValueError, match="the clip has 2 channels, the model takes 3"):
        norm(torch.zeros(1, 2, 4, 4))


def test_bad_calls_are_named():
    with pytest.raises(UnknownName, match="No backbone is called 'resnet5O'. Did you mean"):
        create_model("tsn_resnet5O", num_labels=3)
    with pytest.raises(UnknownName, match="No model is called 'slowfist'"):
        create_model("slowfist", num_labels=3)
    with pytest.raises(RecipeError, match="has no option 'droput'. Did you mean 'dropout'"):
        create_model("tsn_mini", num_labels=3, droput=0.1)
    with pytest.raises(RecipeError, match="num_labels must be at least 1, got 0"):
        create_model("tsn_mini", num_labels=0)
    with pytest.raises(RecipeError, match="finds no residual block in VGG"):
        create_model("tsm_vgg11", num_labels=3)
    with pytest.raises(ValueError, match=r"a clip is \(B, T, C, H, W\), got shape \(2, 3, 8, 8\)"):
        create_model("tsn_mini", num_labels=3)(torch.zeros(2, 3, 8, 8))
