"""Bags of words, VLAD and Fisher vectors: exact numbers by hand."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from reeltag.layers import LAYERS

CENTERS = [[0.0, 0.0], [10.0, 0.0]]
FRAMES = torch.tensor([[[1.0, 1.0], [9.0, 2.0], [12.0, 0.0], [99.0, 99.0]]])
MASK = torch.tensor([[True, True, True, False]])


def test_bag_of_words_counts():
    assert LAYERS.build("bow", centers=CENTERS, norm="none")(FRAMES, MASK).tolist() == [[1, 2]]
    torch.testing.assert_close(LAYERS.build("bow", centers=CENTERS)(FRAMES, MASK), torch.tensor([[1 / 3, 2 / 3]]))
    unit = LAYERS.build("bow", centers=CENTERS, norm="l2")(FRAMES, MASK)
    torch.testing.assert_close(unit, torch.tensor([[1.0, 2.0]]) / 5**0.5)


def test_soft_bag_of_words_shares_a_frame_by_distance():
    layer = LAYERS.build("soft_bow", centers=CENTERS, alpha=0.01, norm="none")
    distances = torch.tensor([[2.0, 82.0], [85.0, 5.0], [144.0, 4.0]])
    torch.testing.assert_close(layer(FRAMES, MASK), (-0.01 * distances).softmax(1).sum(0, keepdim=True))


def test_vlad_sums_differences():
    # center 0: (1, 1); center 1: (-1, 2) + (2, 0) = (1, 2); order: feature 0 of both, feature 1 of both
    raw = torch.tensor([1.0, 1.0, 1.0, 2.0])
    torch.testing.assert_close(LAYERS.build("vlad", centers=CENTERS)(FRAMES, MASK)[0], raw / raw.norm())
    rooted = raw.sqrt() / raw.sum().sqrt()
    torch.testing.assert_close(LAYERS.build("vlad", centers=CENTERS, power=0.5)(FRAMES, MASK)[0], rooted)
    intra = raw / torch.tensor([2.0, 5.0, 2.0, 5.0]).sqrt() / 2**0.5
    torch.testing.assert_close(LAYERS.build("vlad", centers=CENTERS, intra=True)(FRAMES, MASK)[0], intra)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_fisher_vector_is_the_gradient_of_the_likelihood(shift):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) + shift
    mixture = GaussianMixture(4, covariance_type="diag", random_state=0).fit(x)
    parts = [torch.tensor(v) for v in (mixture.weights_, mixture.means_, np.sqrt(mixture.covariances_))]
    layer = LAYERS.build("fisher_vector", weights=parts[0], means=parts[1], sigmas=parts[2], power=1, normalize=False)
    frames = torch.tensor(x)
    theirs = torch.tensor(mixture.predict_proba(x)).float()
    loose = 1e-4 if shift == 0 else 2e-3  # float32 holds 1000.x with 4 digits behind the point
    torch.testing.assert_close(layer.posteriors(frames[None].float())[0], theirs, rtol=0, atol=loose)

    weights, means, sigmas = (p.clone().requires_grad_() for p in parts)
    log_density = torch.distributions.Normal(means, sigmas).log_prob(frames.unsqueeze(1)).sum(-1)
    (log_density + weights.log()).logsumexp(1).mean().backward()
    root = weights.sqrt().unsqueeze(1)
    expected = [(weights.grad * weights - weights) / weights.sqrt(), means.grad * sigmas / root]
    expected.append(sigmas.grad * sigmas / (root * 2**0.5))
    whole = torch.cat([e.detach().flatten() for e in expected]).float()
    torch.testing.assert_close(layer(frames[None].float())[0], whole, rtol=1e-3, atol=loose)


def test_fisher_vector_options():
    parts = {"weights": [1.0, 3.0], "means": CENTERS, "sigmas": [[1.0, 2.0], [3.0, 1.0]]}
    whole = LAYERS.build("fisher_vector", **parts, power=1, normalize=False)
    short = LAYERS.build("fisher_vector", **parts, power=1, normalize=False, weight_part=False)
    assert (whole.out_features, short.out_features) == (10, 8)
    torch.testing.assert_close(short(FRAMES, MASK), whole(FRAMES, MASK)[:, 2:])
    improved = LAYERS.build("fisher_vector", **parts)(FRAMES, MASK)
    rooted = whole(FRAMES, MASK).sign() * whole(FRAMES, MASK).abs().sqrt()
    torch.testing.assert_close(improved, rooted / rooted.norm())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bow", {"centers": [1.0, 2.0]}, "centers needs 2 axes"),
        ("bow", {"centers": [[float("nan")]]}, "finite"),
        ("bow", {"centers": CENTERS, "norm": "max"}, "l1, l2 or none"),
        ("soft_bow", {"centers": CENTERS, "alpha": 0}, "alpha must be above 0"),
        ("fisher_vector", {"weights": [1.0], "means": CENTERS, "sigmas": CENTERS}, "means and sigmas"),
        ("fisher_vector", {"weights": [1.0, 1.0], "means": CENTERS, "sigmas": CENTERS}, "positive"),
    ],
)
def test_bad_codebooks_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        LAYERS.build(name, **options)
