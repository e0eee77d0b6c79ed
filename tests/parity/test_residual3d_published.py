"""R3D, MC3, R(2+1)D, C3D and P3D against the outputs of the code that published them."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import StoreError
from reeltag.hub.published import from_published

slow = pytest.mark.slow
POOL = {"stem_pool": True}
# record, source, our name, options that the keys do not reveal
RECORDS = [
    ("torchvision__r3d_18", "torchvision", "r3d_18", {}),
    ("torchvision__mc3_18", "torchvision", "mc3_18", {}),
    ("torchvision__r2plus1d_18", "torchvision", "r2plus1d_18", {}),
    ("xtemporal__resnet3D18", "xtemporal", "r3d_18", {}),
    ("xtemporal__resnet3D50", "xtemporal", "r3d_50", {}),
    ("xtemporal__stresnet18", "xtemporal", "r2plus1d_18", {}),
    ("xtemporal__stresnet50", "xtemporal", "r2plus1d_50", {}),
    ("ig65m__r2plus1d_34_8_kinetics", "ig65m", "r2plus1d_34", {}),
    pytest.param("ig65m__r2plus1d_34_32_ig65m", "ig65m", "r2plus1d_34", {}, marks=slow),
    ("mmaction2__r2plus1d_r34_8x8", "mmaction2", "r2plus1d_34", {}),
    pytest.param("vmz__r2plus1d_152", "vmz", "r2plus1d_152", POOL, marks=slow),
    pytest.param("vmz__r2plus1d_152_nopool", "vmz", "r2plus1d_152", {}, marks=slow),
    ("c3d__c3d_sports1m", "c3d", "c3d", {}),
    ("mmaction2__c3d_ucf101", "mmaction2", "c3d", {}),
    ("p3d__p3d63", "p3d", "p3d_63", {}),
]


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "source", "ours", "options"), RECORDS)
def test_logits_are_the_published_ones(visual_record, name, source, ours, options):
    record = visual_record(name)
    model = from_published(record.weights(), source, ours, **options)
    assert count(model) == record.data["params"]
    output = record.cases[0]["output"]
    with torch.inference_mode():  # DavideA's C3D ends with softmax: its record keeps the logits before it
        record.agree(model(record.clip()), output=output.get("logits", output))


def test_pytorchvideo_r2plus1d_before_and_after_its_softmax(visual_record):
    record = visual_record("pytorchvideo__r2plus1d_r50")
    model = from_published(record.weights(), "pytorchvideo", "r2plus1d_50")
    assert count(model) == record.data["params"]
    with torch.inference_mode():
        logits = model(record.clip())
    record.agree(logits)
    record.agree(logits.softmax(1), case=1)


COSTS = [
    ("r3d_18", {}, (16, 112), 33_371_472, 40.70),
    ("mc3_18", {}, (16, 112), 11_695_440, 43.34),
    ("r3d_18", {"form": "xtemporal"}, (16, 64), 33_409_104, 2.6825),
    ("r3d_50", {}, (16, 64), 47_018_576, 3.2535),
    ("r2plus1d_18", {}, (16, 112), 31_505_325, 40.52),
    ("r2plus1d_18", {"form": "xtemporal"}, (16, 112), 33_383_797, 11.797),
    ("r2plus1d_34", {"form": "xtemporal"}, None, 63_710_133, None),
    ("r2plus1d_50", {"form": "xtemporal"}, (16, 112), 46_998_015, 15.891),
    ("r2plus1d_50", {}, (16, 224), 28_107_600, 57.53),
    ("r2plus1d_34", {}, (32, 112), 63_697_175, 152.36),
    ("r2plus1d_34", {"form": "mmaction2"}, (8, 224), 63_759_281, 40.56),
    ("r2plus1d_152", {}, (32, 112), 118_226_785, 252.0),
    ("r2plus1d_152", {}, (32, 128), 118_226_785, 329.1),
    ("r2plus1d_152", POOL, (32, 112), 118_226_785, 64.66),
    ("p3d_63", {}, (16, 160), 25_745_232, 8.44),
    ("p3d_199", {}, (16, 160), 66_492_240, 18.40),
]


@pytest.mark.parametrize(("name", "options", "clip", "params", "gmacs"), COSTS)
def test_parameters_and_cost_are_the_published_ones(name, options, clip, params, gmacs):
    with torch.device("meta"):
        model = create_model(name, num_labels=400, **options)
    assert count(model) == params
    if clip:
        frames, side = clip
        cost = model.flops(torch.empty(1, frames, 3, side, side, device="meta")) / 2e9
        assert cost == pytest.approx(gmacs, rel=0.002)


def test_c3d_has_the_published_size_and_cost():
    with torch.device("meta"):
        model = create_model("c3d", num_labels=487)
    assert count(model) == 79_991_015
    assert model.flops(torch.empty(1, 16, 3, 112, 112, device="meta")) / 2e9 == pytest.approx(38.55, rel=1e-3)


def randomised(peer):
    """Give a peer's norms statistics and scales that a forgotten one would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in peer.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return peer.eval()


@pytest.mark.parametrize(("ours", "rule"), [("r2plus1d_50", "block"), ("r3d_50", None)])
def test_other_depths_of_torchvisions_classes_load_by_rule(ours, rule):
    video = pytest.importorskip("torchvision.models.video.resnet")
    conv, stem = (
        (video.Conv2Plus1D, video.R2Plus1dStem)
        if ours.startswith("r2plus1d")
        else (video.Conv3DSimple, video.BasicStem)
    )
    peer = randomised(video.VideoResNet(video.Bottleneck, [conv] * 4, [3, 4, 6, 3], stem, num_classes=11))
    model = from_published(
        {f"module.{key}": value for key, value in peer.state_dict().items()}, "torchvision", ours
    )  # fmt: skip
    clip = torch.randn(2, 5, 3, 30, 34)
    with torch.inference_mode():
        theirs = peer(clip.transpose(1, 2))
        # Sums in another order, through 50 layers.
        torch.testing.assert_close(model(clip), theirs, rtol=1e-4, atol=1e-4 * theirs.std().item())


def test_an_mc_network_with_two_3d_stages_and_two_channels_loads_as_r3d():
    video = pytest.importorskip("torchvision.models.video.resnet")
    makers = [video.Conv3DSimple] * 2 + [video.Conv3DNoTemporal] * 2
    peer = video.VideoResNet(video.BasicBlock, makers, [2, 2, 2, 2], video.BasicStem, num_classes=5)
    peer.stem[0] = torch.nn.Conv3d(2, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    peer = randomised(peer)
    model = from_published(peer.state_dict(), "torchvision", "r3d_18")
    clip = torch.randn(1, 4, 2, 32, 32)
    with torch.inference_mode():
        theirs = peer(clip.transpose(1, 2))
        torch.testing.assert_close(model(clip), theirs, rtol=1e-4, atol=1e-4 * theirs.std().item())


def test_weights_of_another_network_are_refused_with_its_name():
    video = pytest.importorskip("torchvision.models.video")
    with torch.device("meta"):
        weights = video.r2plus1d_18(weights=None).state_dict()
    with pytest.raises(
        StoreError, match=r"have 2, 2, 2, 2 basic blocks a stage \(18 layers\), r2plus1d_34 has 3, 4, 6"
    ):
        from_published(weights, "torchvision", "r2plus1d_34")
    with pytest.raises(StoreError, match=r"have \(2\+1\)D convolutions: they are for r2plus1d, not 'r3d_18'"):
        from_published(weights, "torchvision", "r3d_18")
    with pytest.raises(StoreError, match="no MMAction2 network known here has keys such as"):
        from_published(weights, "mmaction2", "r2plus1d_18")
