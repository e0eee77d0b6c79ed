"""Two streams: what is averaged, what happens when one is missing, and the recurrent network's last step."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import RecipeError


def clips(batch=2):
    torch.manual_seed(0)
    return {"rgb": torch.randn(batch, 3, 3, 32, 32), "flow": torch.randn(batch, 3, 10, 32, 32)}


@pytest.fixture
def model():
    torch.manual_seed(1)
    model = create_model("two_stream_mini", num_labels=4, weights=(1.0, 3.0)).eval()
    for stream in model.streams.values():
        torch.nn.init.normal_(stream.classifier.weight)
    return model


def test_logits_are_the_weighted_mean_of_the_streams(model):
    x = clips()
    with torch.inference_mode():
        expected = (model.rgb(x["rgb"]) + 3 * model.flow(x["flow"])) / 4
        torch.testing.assert_close(model(x), expected)


def test_the_head_is_both_classifiers(model):
    head = {id(p) for p in model.classifier.parameters()}
    assert {n for n, p in model.named_parameters() if id(p) in head} == {
        f"{stream}.classifier.{kind}" for stream in ("rgb", "flow") for kind in ("weight", "bias")
    }
    model.reset_classifier(6)
    assert [layer.out_features for layer in model.classifier] == [6, 6]


def test_a_missing_stream_leaves_the_other_alone(model):
    x = clips()
    with torch.inference_mode():
        torch.testing.assert_close(model({"rgb": x["rgb"]}), model.rgb(x["rgb"]))
        torch.testing.assert_close(model({"flow": x["flow"]}), model.flow(x["flow"]))
        present = torch.tensor([[True, False], [True, True]])
        found = model(x, present=present)
        torch.testing.assert_close(found[0], model.rgb(x["rgb"])[0])
        torch.testing.assert_close(found[1], model(x)[1])
        x["flow"][0] = float("nan")  # what stands in the place of an absent stream does no harm
        torch.testing.assert_close(model(x, present=present), found)
        features = model.forward_head(model.forward_features({"rgb": x["rgb"]}), pre_logits=True)
        assert features.shape == (2, 256)
        assert not features[:, 128:].any()
        added = model.contributions(x, present)
        torch.testing.assert_close(added.sum(1), found)  # without any stream the logits are 0
        torch.testing.assert_close(added[0, 0], found[0])
        # The two orders of adding: a stream alone, or what it changes beside the other.
        rgb, flow = model.rgb(x["rgb"])[1], model.flow(x["flow"])[1]
        torch.testing.assert_close(added[1, 0], (rgb + found[1] - flow) / 2)
    with pytest.raises(ValueError, match="one of them at least; got nothing"):
        model({})


def test_the_fused_network_needs_both_and_one_flow_stack_a_frame():
    model = create_model("two_stream_3d_fused", num_labels=3, backbone="mini", width=16).eval()
    x = clips()
    assert model(x).shape == (2, 3)
    with pytest.raises(ValueError, match="flow is missing"):
        model({"rgb": x["rgb"]})
    assert torch.equal(model(x, torch.ones(2, 2, dtype=torch.bool)), model(x))
    with pytest.raises(ValueError, match="needs rgb and flow of every clip"):
        model(x, torch.tensor([[True, True], [True, False]]))
    with pytest.raises(ValueError, match="rgb has 3 frames and flow 2"):
        model({"rgb": x["rgb"], "flow": x["flow"][:, :2]})
    with pytest.raises(RecipeError, match="stream weights are at least 0"):
        create_model("two_stream_mini", num_labels=3, weights=(-1.0, 1.0))


def test_two_stream_i3d_counts_both_networks():
    with torch.device("meta"):
        model = create_model("two_stream_i3d", num_labels=400)
    assert sum(p.numel() for p in model.parameters()) == 12_697_264 + 12_675_312
    example = model.example_input()[0]
    assert example["rgb"].shape == (1, 64, 3, 224, 224)
    assert example["flow"].shape == (1, 64, 2, 224, 224)


def test_the_recurrent_network_reads_its_last_step_in_evaluation():
    torch.manual_seed(0)
    model = create_model("convnet_lstm", num_labels=3, backbone="mini", hidden=8, dropout=0.0)
    x = torch.randn(2, 5, 3, 32, 32)
    model.eval()
    steps = model.forward_features(x)
    torch.testing.assert_close(model(x), model.classifier(steps[:, 4]))
    changed = x.clone()
    changed[:, 0] += 1
    assert (model(changed) - model(x)).abs().max() > 1e-6  # it remembers the first frame
    model.train()
    torch.testing.assert_close(model.forward_head(steps), model.classifier(steps.mean(1)))
