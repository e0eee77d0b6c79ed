"""Models of several modalities: what an absent one may do, which is nothing, and what each one adds."""

import pytest
import torch
import torch.nn.functional as F

from reeltag.build import build_model, create_model, without_starts
from reeltag.errors import RecipeError, StoreError, UnknownName
from reeltag.hub.bundle import TrainedModel, write_bundle
from reeltag.inference.load import load_trained
from reeltag.models.contributions import modality_contributions
from reeltag.models.fusion_gated import GatedFusion
from reeltag.models.training_loss import has_own_loss, training_loss
from reeltag.recipe import recipe_with
from reeltag.schema import MODALITIES

NAMES = ["fusion_gated", "fusion_transformer"]
SMALL = {
    modality: {"name": name, "backbone_options": {"widths": [4, 8]}}
    for modality, name in (("rgb", "tsm_mini"), ("flow", "tsn_mini"), ("audio", "logmel_mini"))
}
YES, NO = True, False


def build(name, num_labels=4, streams=SMALL, **options):
    torch.manual_seed(1)
    model = create_model(name, num_labels=num_labels, streams=streams, width=16, **options)
    torch.nn.init.normal_(model.classifier.weight)
    return model


def clips(batch=3):
    torch.manual_seed(0)
    return {
        "rgb": torch.randint(0, 256, (batch, 2, 3, 16, 16), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (batch, 2, 2, 16, 16), dtype=torch.uint8),
        "audio": 0.2 * torch.randn(batch, 3200),
    }


@pytest.fixture(params=NAMES)
def model(request):
    return build(request.param).eval()


def test_an_absent_modality_is_one_that_is_not_given(model):
    x = clips()
    present = torch.tensor([[YES, YES, NO], [YES, YES, YES], [NO, YES, NO]])
    with torch.inference_mode():
        found = model(x, present)
        torch.testing.assert_close(found[0], model({k: v[:1] for k, v in x.items() if k != "audio"})[0])
        torch.testing.assert_close(found[1], model({k: v[1:2] for k, v in x.items()})[0])
        torch.testing.assert_close(found[2], model({"flow": x["flow"][2:]})[0])
        assert (model(x) - found)[[0, 2]].abs().amax(1).min() > 1e-3  # it does read what is there


def test_nothing_in_an_absent_place_comes_through(model, monkeypatch):
    x = clips()
    present = torch.tensor([[YES, YES, NO], [NO, YES, YES], [YES, NO, YES]])
    with torch.inference_mode():
        expected = model(x, present)
        x["audio"][0] = float("nan")
        x["rgb"][1], x["flow"][2] = 7, 9
        torch.testing.assert_close(model(x, present), expected, rtol=0, atol=0)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # a graph computes all clips, and masks
        torch.testing.assert_close(model(x, present), expected)


@pytest.mark.parametrize("name", NAMES)
def test_in_training_absent_clips_touch_neither_statistics_nor_gradients(name):
    x, present = clips(4), torch.tensor([[YES, YES, YES]] * 2 + [[YES, YES, NO]] * 2)
    model, other = build(name).train(), build(name).train()
    x["audio"][2:] = float("nan")
    model(x, present).sum().backward()
    other.streams["audio"].forward_features(x["audio"][:2])
    ours, theirs = model.streams["audio"].state_dict(), other.streams["audio"].state_dict()
    assert sum("running" in key for key in ours) > 4
    for key in (key for key in ours if "running" in key):
        torch.testing.assert_close(ours[key], theirs[key])
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is not None for p in model.streams["audio"].parameters())


def test_a_clip_without_any_modality_says_what_all_such_clips_say(model):
    with torch.inference_mode():
        found = model(clips(), torch.zeros(3, 3, dtype=torch.bool))
    torch.testing.assert_close(found[1:], found[:1].expand(2, -1), rtol=0, atol=0)
    assert found.isfinite().all()
    if isinstance(model, GatedFusion):
        torch.testing.assert_close(found[0], model.classifier.bias)


def test_the_gated_sum_by_hand():
    model = build("fusion_gated").eval()
    tokens, there = torch.randn(1, 3, 16), torch.tensor([[YES, NO, YES]])
    with torch.inference_mode():
        said = tokens[0].tanh()
        context = torch.cat([said[0], torch.zeros(16), said[2], torch.tensor([1.0, 0.0, 1.0])])
        gates = (model.gate.weight @ context + model.gate.bias).sigmoid().view(3, 16)
        fused = gates[0] * said[0] + gates[2] * said[2]
        expected = model.classifier(fused)
        torch.testing.assert_close(model.forward_head((tokens, there))[0], expected)


def test_contributions_of_a_game_by_hand():
    # v(none) = 1, v(a) = 3, v(b) = 2, v(a, b) = 7: a adds (2 + 5) / 2, b adds (1 + 4) / 2.
    worth = {(0, 0): 1.0, (1, 0): 3.0, (0, 1): 2.0, (1, 1): 7.0}

    def logits_of(mask):
        return torch.tensor([[worth[tuple(row)]] for row in mask.int().tolist()])

    found = modality_contributions(logits_of, torch.tensor([[YES, YES], [YES, NO], [NO, NO]]))
    assert found.squeeze(2).tolist() == [[3.5, 2.5], [2.0, 0.0], [0.0, 0.0]]


def test_contributions_sum_to_the_logit_less_that_of_nothing(model):
    x, present = clips(), torch.tensor([[YES, YES, YES], [YES, NO, YES], [NO, NO, NO]])
    with torch.inference_mode():
        found = model.contributions(x, present)
        assert found.shape == (3, 3, 4)
        nothing = model(x, torch.zeros_like(present))
        torch.testing.assert_close(found.sum(1), model(x, present) - nothing, rtol=1e-4, atol=1e-5)
        assert not found[1, 1].any()
        assert not found[2].any()
        assert found[0].abs().amax(1).min() > 1e-3


def test_modality_dropout_hides_as_often_as_stated_and_never_everything():
    model = build("fusion_gated", modality_dropout=0.3)
    there = torch.tensor([[YES, YES, NO]]).expand(200000, -1)
    torch.manual_seed(0)
    hidden = model._hidden(there)
    assert not hidden[:, 2].any()
    assert (there & ~hidden).any(1).all()
    # One of two is hidden alone with 0.3 * 0.7, and in half of the 0.09 cases that would hide both.
    for column in (0, 1):
        assert hidden[:, column].float().mean().item() == pytest.approx(0.3 * 0.7 + 0.09 / 2, abs=0.004)
    assert not model._hidden(torch.zeros(5, 3, dtype=torch.bool)).any()


def test_modality_dropout_is_of_training_alone(model):
    model.options = type(model.options)(16, 0.0, 0.9, 0.0)
    x = clips(16)
    torch.manual_seed(0)
    _, there = model.train().forward_features(x)
    assert 0 < (~there).sum() <= 32
    assert model.eval().forward_features(x)[1].all()


def test_each_modality_by_itself_adds_its_own_loss():
    model = build("fusion_gated", modality_dropout=0.0, dropout=0.0, alone=0.5).train()
    x, present = clips(), torch.tensor([[YES, YES, YES], [YES, YES, NO], [YES, NO, NO]])
    targets = torch.tensor([[1.0, 0, 0, 1]] * 3)
    torch.manual_seed(0)
    tokens, there = model.forward_features(x, present)
    logits = model.forward_head((tokens, there))
    found = training_loss(model, logits, targets, _bce)
    own = 0.0
    for column, count in enumerate((3, 2, 1)):
        only = torch.zeros(count, 3, dtype=torch.bool)
        only[:, column] = True
        own += count / 3 * _bce(model.forward_head((tokens[:count], only)), targets[:count])
    torch.testing.assert_close(found, _bce(logits, targets) + 0.5 * own / 3)
    with pytest.raises(ValueError, match="belongs to a forward in training mode, once"):
        training_loss(model, logits, targets, _bce)


def _bce(logits, targets, *, ignore=None):
    assert ignore is None
    return F.binary_cross_entropy_with_logits(logits, targets)


def test_defaults_and_order():
    with torch.device("meta"):
        model = create_model("fusion_gated", num_labels=3)
        assert model.modalities == MODALITIES
        assert model.example_input()[0]["flow"].shape == (1, 8, 2, 224, 224)
        two = create_model("fusion_transformer", num_labels=3, streams={"audio": "logmel_mini", "rgb": "tsn_mini"})
        assert two.modalities == ("rgb", "audio")
        eight = create_model("fusion_gated", num_labels=3, num_frames=4, streams={"rgb": "trn_mini", "audio": "m3"})
        assert eight.streams["rgb"].clip_shape[0] == 4


@pytest.mark.parametrize(
    ("streams", "error", "words"),
    [
        ({"sound": "m3", "rgb": "tsn_mini"}, RecipeError, "'sound' is no modality. .*Streams are rgb, flow, audio"),
        ({"rgb": "tsn_mini"}, RecipeError, "two modalities or more of rgb, flow, audio; got rgb"),
        ({"rgb": "tsn_mini", "audio": {"dropout": 0.1}}, RecipeError, "the audio stream needs the name of a model"),
        ({"rgb": "m3", "audio": "m3"}, RecipeError, "m3 takes waveform, the rgb stream is given rgb"),
        ({"rgb": "tsn_mini", "audio": "tsn_mini"}, RecipeError, "tsn_mini takes rgb, the audio stream is given wave"),
        ({"rgb": "two_stream_mini", "audio": "m3"}, RecipeError, "two_stream_mini takes fusion"),
        ({"rgb": "tsnmini", "audio": "m3"}, UnknownName, "No model is called 'tsnmini'"),
        ({"rgb": {"name": "tsn_mini", "drop": 1}, "audio": "m3"}, RecipeError, "'tsn_mini' has no option 'drop'. Did"),
    ],
)
def test_streams_that_cannot_be_are_refused(streams, error, words):
    with pytest.raises(error, match=words):
        create_model("fusion_gated", num_labels=3, streams=streams)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modality_dropout": 1.0}, r"modality_dropout is a probability in \[0, 1\), got 1.0"),
        ({"width": 0}, "width must be at least 1"),
        ({"width": 10, "num_heads": 4}, "num_heads must divide width=10"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(RecipeError, match=words):
        create_model("fusion_transformer", num_labels=3, streams=SMALL, **options)


def test_inputs_that_do_not_fit_are_refused(model):
    x = clips()
    with pytest.raises(ValueError, match="one or more of rgb, flow, audio; got sound"):
        model({"sound": x["audio"]})
    with pytest.raises(ValueError, match="got none"):
        model({})
    with pytest.raises(ValueError, match="hold the same clips, got .*'audio': 2"):
        model({**x, "audio": x["audio"][:2]})
    with pytest.raises(ValueError, match=r"present is bool \(B, M\) = \(3, 3\) in the order rgb, flow, audio"):
        model(x, torch.ones(3, 2, dtype=torch.bool))


def test_streams_start_from_bundles_and_a_bundle_of_all_needs_them_no_more(tmp_path):
    torch.manual_seed(3)
    sound = recipe_with({"model": SMALL["audio"]}, [], "sound")
    trained = build_model(sound, 6)
    names = [f"label{i}" for i in range(6)]
    write_bundle(TrainedModel(tmp_path / "a", sound, names, trained.state_dict(), ""), tmp_path / "a")
    streams = {**SMALL, "audio": {**SMALL["audio"], "pretrained": str(tmp_path / "a")}}
    recipe = recipe_with({"model": {"name": "fusion_gated", "streams": streams, "width": 8}}, [], "all")
    model = build_model(recipe, 2)
    ours = model.streams["audio"].state_dict()
    assert ours
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in ours.items())
    write_bundle(TrainedModel(tmp_path / "b", recipe, names[:2], model.state_dict(), ""), tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "gone")
    assert "pretrained" not in without_starts(recipe).model.options["streams"]["audio"]
    loaded = load_trained(str(tmp_path / "b"), device="cpu").model
    torch.testing.assert_close(loaded(clips()), model.eval()(clips()), rtol=1e-3, atol=1e-4)
    with pytest.raises(StoreError, match="does not exist"):
        build_model(recipe, 2)


@pytest.mark.parametrize("name", NAMES)
def test_three_modalities_are_learned_together_and_each_alone(name):
    """A label a modality: red pictures, flow to the right, loud sound. Half of the clips have no track."""
    model = build(name, num_labels=3, alone=0.3)
    torch.nn.init.zeros_(model.classifier.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        x, present, targets = _batch(draw)
        logits = model.train()(x, present)
        training_loss(model, logits, targets, _bce).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    x, present, targets = _batch(draw, 64)
    heard = present[:, 2]
    with torch.inference_mode():
        right = (model(x, present) > 0) == targets.bool()
        assert right[:, :2].float().mean() > 0.95
        assert right[heard, 2].float().mean() > 0.95
        deaf = model({k: v for k, v in x.items() if k != "audio"})
        assert ((deaf > 0) == targets.bool())[:, :2].float().mean() > 0.95  # what sound does not carry is kept
        assert deaf[:, 2].std() < model(x, present)[heard, 2].std() / 2  # and what it carries is not guessed
        own = model.contributions(x, present).abs()[heard].mean(0)  # (M, L)
        assert own.argmax(0).tolist() == [0, 1, 2]


def _batch(draw, size=16):
    targets = torch.randint(0, 2, (size, 3), generator=draw).float()
    heard = torch.rand(size, generator=draw) < 0.5
    red = (60 + 120 * targets[:, 0]).view(-1, 1, 1, 1)
    rgb = torch.stack([red[:, 0].expand(-1, 16, 16), *[torch.full((size, 16, 16), 90.0)] * 2], 1)
    flow = torch.full((size, 2, 2, 16, 16), 128.0)
    flow[:, :, 0] += 60 * targets[:, 1].view(-1, 1, 1, 1)
    noise = torch.randn(size, 3200, generator=draw)
    audio = noise * (0.002 + 0.2 * targets[:, 2:])
    audio[~heard] = 0
    present = torch.stack([torch.ones_like(heard), torch.ones_like(heard), heard], 1)
    clip = {"rgb": rgb.unsqueeze(1).repeat(1, 2, 1, 1, 1), "flow": flow}
    return {**{k: v.to(torch.uint8) for k, v in clip.items()}, "audio": audio}, present, targets


def test_without_the_losses_by_itself_the_recipes_loss_is_all():
    assert not has_own_loss(build("fusion_gated"))  # so that many processes take it over all clips together
    assert has_own_loss(build("fusion_gated", alone=0.1))
