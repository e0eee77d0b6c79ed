"""`test.activation`: evaluation and tagging read the same key, and give the softmax of what they gave sigmoids of."""

from dataclasses import replace

import numpy as np
import torch

from reeltag.data.footage import open_footage
from reeltag.inference.evaluate import evaluate
from reeltag.inference.load import load_trained
from reeltag.inference.predict import Tagger


def test_scores_become_shares_of_one(mini_run, mini_packed, mini_manifest):
    loaded = load_trained(str(mini_run), device="cpu")
    shared = replace(
        loaded, trained=replace(loaded.trained, recipe=loaded.trained.recipe.replace(**{"test.activation": "softmax"}))
    )
    footage = open_footage(mini_packed)
    own, shares = (evaluate(each, footage, split="val", views="2x1", workers=0).scores for each in (loaded, shared))
    logits = torch.tensor(own.views, dtype=torch.float64).logit()  # (N, V, L)
    np.testing.assert_allclose(shares.views, logits.softmax(-1).numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(shares.values, logits.softmax(-1).mean(1).numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(shares.values.sum(1), 1, atol=1e-5)
    video = next(mini_manifest.parent.glob("videos/*.mp4"))
    sigmoids, softmaxes = (Tagger(each)(video) for each in (loaded, shared))
    assert softmaxes.labels[0] == sigmoids.labels[0]
    expected = torch.tensor(sigmoids.scores, dtype=torch.float64).logit().softmax(-1)
    np.testing.assert_allclose(softmaxes.scores, expected.numpy(), rtol=1e-3, atol=1e-6)
    assert softmaxes.thresholds[0] == 0.5  # more likely than all other labels together
