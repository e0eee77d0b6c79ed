"""PCA, whitening and one byte a value: numbers by hand, against scikit-learn, and there and back."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from reeltag.data.feature_coding import PCA_FILE, Coding, Pca
from reeltag.errors import StoreError

HALF_STEP = 4 / 510


def test_there_and_back_is_off_by_half_a_step_at_most_and_stays():
    identity = Coding(Pca(torch.zeros(1), torch.full((1,), 1 - 1e-4), torch.ones(1, 1), torch.ones(())), quantized=True)
    by_hand = torch.tensor([-7.0, -2.0, -1.99, -1.98, 0.0, 1.0, 1.99, 2.0, 9.0]).unsqueeze(1)
    # 63.75 steps a unit: 0.01 -> 0.6375, 0.02 -> 1.275, 2 -> 127.5, 3 -> 191.25, 3.99 -> 254.36
    assert identity.encode(by_hand).flatten().tolist() == [0, 0, 0, 1, 127, 191, 254, 255, 255]
    codes = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    assert identity.decode(codes[[0, 1, 127, 255]]).flatten().tolist() == pytest.approx(
        [-1.9921875, -1.9765012, -0.0000306, 2.0078125], abs=1e-6
    )
    assert torch.equal(identity.encode(identity.decode(codes)), codes)
    values = torch.linspace(-2, 2, 100_001).unsqueeze(1)
    error = identity.decode(identity.encode(values)) - values
    assert error.abs().max() <= HALF_STEP + 1 / 512 / 60  # the published offset is 4 / 512, half a step 4 / 510
    assert abs(error.mean()) < 1e-4


@pytest.fixture
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator)
    return torch.randn(400, 12, generator=generator) @ mixing * 3 + 5


def test_components_and_variances_are_those_of_scikit_learn(frames):
    ours, oracle = Pca.fit([frames], 5), PCA(5, svd_solver="full").fit(frames.double().numpy())
    torch.testing.assert_close(ours.mean, torch.from_numpy(oracle.mean_).float())
    variances = torch.from_numpy(oracle.explained_variance_ * 399 / 400).float()  # theirs divides by N - 1
    torch.testing.assert_close(ours.eigenvalues, variances, rtol=1e-5, atol=1e-5)
    rows = torch.from_numpy(oracle.components_).float()
    rows = rows * (rows * ours.components).sum(1, keepdim=True).sign()
    torch.testing.assert_close(ours.components, rows, rtol=1e-4, atol=1e-5)  # theirs by SVD, ours by eigenvectors
    assert ours.kept == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-6)


def test_whitened_components_have_the_published_scale_and_are_uncorrelated(frames):
    pca = Pca.fit([frames], 5)
    white = pca.whiten(frames).double()
    covariance = white.T @ white / len(white)
    expected = (pca.eigenvalues / (pca.eigenvalues + 1e-4)).double().diag()
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-4)  # float32 products of values up to 30
    by_hand = (frames[3] - pca.mean) @ pca.components[1] / np.sqrt(float(pca.eigenvalues[1]) + 1e-4)
    assert float(white[3, 1]) == pytest.approx(float(by_hand), rel=1e-4)


def test_fit_in_parts_is_the_fit_at_once(frames):
    whole, parts = Pca.fit([frames], 4), Pca.fit(frames.split(37), 4)
    for name in ("mean", "eigenvalues", "components"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name))


def test_restore_undoes_whitening_up_to_what_was_dropped(frames):
    full = Pca.fit([frames], 12)
    torch.testing.assert_close(full.restore(full.whiten(frames)), frames, rtol=1e-4, atol=1e-3)  # values up to 40
    part = Pca.fit([frames], 5)
    lost = (part.restore(part.whiten(frames)) - frames).square().sum(1).mean()
    assert float(lost) == pytest.approx(float(part.variance - part.eigenvalues.sum()), rel=1e-3)


def test_coding_there_and_back(frames):
    pca = Pca.fit([frames], 12)
    small = Coding(pca, quantized=True)
    stored = small.encode(frames)
    assert stored.dtype == torch.uint8
    inside = pca.whiten(frames).clamp(-2, 2)
    assert (small.decode(stored) - inside).abs().max() <= HALF_STEP + 4e-5
    plain = Coding().encode(frames)
    assert plain.dtype == torch.float16
    torch.testing.assert_close(Coding.decode(plain), frames, rtol=2**-11, atol=0)  # float16 keeps 11 bits
    assert Coding(pca).encode(frames).dtype == torch.float16


def test_values_that_cannot_be_stored_are_refused(frames):
    with pytest.raises(ValueError, match="65504"):
        Coding().encode(torch.full((1, 2), 1e5))
    with pytest.raises(ValueError, match="not finite"):
        Coding(Pca.fit([frames], 3), True).encode(torch.full((1, 12), float("nan")))
    with pytest.raises(ValueError, match="need a PCA"):
        Coding(None, quantized=True)


def test_a_fit_that_cannot_be_is_refused(frames):
    with pytest.raises(ValueError, match="allow 1 to 12"):
        Pca.fit([frames], 13)
    with pytest.raises(ValueError, match="more frames to fit on than that, got 5"):
        Pca.fit([frames[:5]], 5)
    with pytest.raises(ValueError, match="allow 1 to 0"):
        Pca.fit([], 5)


def test_saved_pca_is_checked_when_it_is_read(frames, tmp_path):
    pca = Pca.fit([frames], 3)
    digest = pca.save(tmp_path)
    assert torch.equal(Pca.load(tmp_path, digest).components, pca.components)
    data = bytearray((tmp_path / PCA_FILE).read_bytes())
    data[-5] ^= 1
    (tmp_path / PCA_FILE).write_bytes(data)
    with pytest.raises(StoreError, match="has changed"):
        Pca.load(tmp_path, digest)
    (tmp_path / PCA_FILE).unlink()
    with pytest.raises(StoreError, match="is missing"):
        Pca.load(tmp_path)
