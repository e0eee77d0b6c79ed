"""VGGish: any length of sound, the classifier on its embeddings, and what a published file becomes."""

import json

import pytest
import torch

from reeltag.build import create_model
from reeltag.cli import app
from reeltag.errors import RecipeError, StoreError, UnknownName
from reeltag.hub.published import from_published
from reeltag.inference.load import load_trained


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("vggish", num_labels=4).eval()


def sound(count, batch=1):
    return 0.3 * torch.randn(batch, count, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("samples", "patches"), [(1, 1), (15599, 1), (15600, 1), (30959, 1), (30960, 2), (48000, 3)])
def test_patches_of_any_length(model, samples, patches):
    x = sound(samples)
    found = model.patches(x)
    assert found.shape == (1, patches, 96, 64)
    # Short sound is followed by silence: the same as padding by hand, and ln(0.01) where there is nothing.
    torch.testing.assert_close(found, model.patches(torch.nn.functional.pad(x, (0, max(0, 15600 - samples)))))
    if samples == 1:
        torch.testing.assert_close(found[0, 0, 1:], torch.full((95, 64), 0.01).log())


def test_the_mean_of_patches_is_classified(model):
    x = sound(48000, batch=2)
    with torch.inference_mode():
        embeddings = model.net(model.patches(x).flatten(0, 1)).unflatten(0, (2, 3))
        torch.testing.assert_close(model(x), model.frames.classifier(embeddings.mean(1)), rtol=1e-4, atol=1e-5)
        # A remainder that fills no patch is left out, as published.
        torch.testing.assert_close(model(sound(48000)[:, :46500]), model(sound(48000)[:, :46320]))


@pytest.mark.parametrize(
    ("pooling", "options"),
    [
        ("lstm", {"hidden": 8, "num_layers": 1}),
        ("netvlad", {"num_clusters": 4, "fc": 16}),
        ("attention", {"hidden": 8}),
    ],
)
def test_sequences_of_embeddings_may_be_pooled_otherwise(pooling, options):
    with torch.device("meta"):
        model = create_model("vggish", num_labels=4, pooling=pooling, pooling_options=options)
        assert model(torch.zeros(2, 48000)).shape == (2, 4)
    head = {id(p) for p in model.classifier.parameters()}
    outside = {name.split(".")[0] for name, p in model.named_parameters() if id(p) not in head}
    assert outside == {"net"}  # training the head alone leaves the network as it is


def test_what_it_does_not_take_is_said():
    with pytest.raises(UnknownName, match="frames_lstn.*Did you mean 'frames_lstm'"):
        create_model("vggish", num_labels=4, pooling="lstn")
    with pytest.raises(RecipeError, match="frames_mean' has no option 'width'"):
        create_model("vggish", num_labels=4, pooling_options={"width": 3})
    with pytest.raises(RecipeError, match="trains by a rule of its own; take mean"):
        create_model("vggish", num_labels=4, pooling="lstm_steps")
    with pytest.raises(RecipeError, match="postprocess is one of none, components, nearest, down, got 'pca'"):
        create_model("vggish", num_labels=4, postprocess="pca")


def published(model):
    return {key.removeprefix("net."): value for key, value in model.state_dict().items() if key.startswith("net.")}


@pytest.mark.slow  # the network has 72 million weights
def test_two_published_files_become_one_bundle_to_train_from(model, tmp_path, capsys):
    torch.save(published(model), tmp_path / "vggish.pth")
    components = {"pca_eigen_vectors": torch.randn(128, 128), "pca_means": torch.randn(128, 1)}
    torch.save(components, tmp_path / "pca.pth")
    (tmp_path / "labels.txt").write_text("dog\nrain\nsiren\n")
    call = [
        "convert",
        tmp_path / "vggish.pth",
        "--also",
        tmp_path / "pca.pth",
        "--source",
        "vggish",
        "--name",
        "vggish",
    ]
    call += ["--labels", tmp_path / "labels.txt", "--out", tmp_path / "bundle", "model.postprocess=down", "--json"]
    app([str(word) for word in call], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert facts["classifier"] == "drawn"
    assert facts["options"] == {"postprocess": "down"}
    assert facts["first_labels"] == ["dog", "rain", "siren"]
    loaded = load_trained(str(tmp_path / "bundle"), device="cpu").model
    assert torch.equal(loaded.pproc.pca_means, components["pca_means"])
    x = sound(32000)
    with torch.inference_mode():
        expected = model.net(model.patches(x)[0])
        # A bundle's kernels lie in another order in memory, and sums round otherwise.
        torch.testing.assert_close(loaded.net(loaded.patches(x)[0]), expected, rtol=1e-3, atol=1e-3)


def test_components_that_are_asked_for_and_not_given_are_missed(model):
    with pytest.raises(StoreError, match=r"missing \(2\): pproc.pca_eigen_vectors, pproc.pca_means"):
        from_published(published(model), source="vggish", name="vggish", postprocess="down")
