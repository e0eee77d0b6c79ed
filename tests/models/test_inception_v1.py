"""Inception-v1: the image network of "Quo vadis", and I3D started from it."""

import pytest
import torch
from torchvision.models import googlenet

from reeltag.build import create_model
from reeltag.hub.published import from_published
from reeltag.models.i3d import start_from_images
from reeltag.models.image2d import build_backbone


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    net = googlenet(weights=None, aux_logits=False, init_weights=False, num_classes=7).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return net


def test_published_image_weights_give_torchvisions_logits(published):
    model = from_published(published.state_dict(), source="torchvision", name="inception_v1")
    x = torch.randn(2, 1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), published(x[:, 0]), rtol=1e-4, atol=1e-5)


def test_the_architectures_of_quo_vadis_have_the_parameters_of_its_table():
    """Table 1 of arXiv:1705.07750, in millions: 9, 12, 39 and 25."""
    counts = {}
    for name, options in [
        ("convnet_lstm", {}),
        ("two_stream_inception_v1", {}),
        ("two_stream_3d_fused", {}),
        ("two_stream_i3d", {}),
    ]:
        with torch.device("meta"):
            model = create_model(name, num_labels=400, **options)
        counts[name] = round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
    assert counts == {
        "convnet_lstm": 9.0,
        "two_stream_inception_v1": 12.0,
        "two_stream_3d_fused": 39.7,
        "two_stream_i3d": 25.4,
    }


@pytest.mark.parametrize("channels", [3, 2])
def test_i3d_starts_from_image_weights(published, channels):
    weights = {k: v for k, v in published.state_dict().items() if not k.startswith("fc.")}
    model = create_model("i3d_inception", num_labels=5, in_channels=channels)
    drawn = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    start_from_images(model, weights)
    own = model.state_dict()
    unchanged = [k for k, v in own.items() if torch.equal(v, drawn[k]) and not k.endswith("num_batches_tracked")]
    assert unchanged == ["classifier.weight", "classifier.bias"]
    # Over time each filter adds up to the 2D one, in equal parts.
    stem = weights["conv1.conv.weight"]
    expected = stem if channels == 3 else stem.mean(1, keepdim=True).expand(-1, 2, -1, -1)
    torch.testing.assert_close(own["conv1.conv.weight"].sum(2), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in [
        ("mixed.3b.branch1.1", "inception3a.branch2.1"),
        ("mixed.5c.branch3.1", "inception5b.branch4.1"),
    ]:
        filters = own[f"{ours}.conv.weight"]
        torch.testing.assert_close(filters.sum(2), weights[f"{theirs}.conv.weight"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(filters[:, :, 0], filters[:, :, -1], rtol=0, atol=0)
        torch.testing.assert_close(own[f"{ours}.norm.running_var"], weights[f"{theirs}.bn.running_var"])
    with pytest.raises(ValueError, match=r"'fc.weight' is no weight of torchvision's GoogLeNet"):
        start_from_images(model, published.state_dict())


def test_frames_and_flow_go_through_the_backbone():
    for channels in (3, 10):
        backbone = build_backbone("inception_v1", in_channels=channels).eval()
        with torch.inference_mode():
            features = backbone.forward_features(torch.randn(2, channels, 65, 65))
        assert features.shape == (2, 1024, 2, 2)
        assert backbone.pool(features).shape == (2, 1024)
    with pytest.raises(ValueError, match="mini has no weights to fetch"):
        build_backbone("mini", pretrained=True)
