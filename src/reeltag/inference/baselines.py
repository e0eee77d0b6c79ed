"""What a network has to beat, on features alone: label prior, neighbours, SVM, logistic regression (scikit-learn)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reeltag.errors import UnknownName
from reeltag.registry import close_name

Array: TypeAlias = npt.NDArray[Any]


class Baseline(ABC):
    """Learns from a feature matrix and scores another; features are centred and scaled to unit deviation first.

    A label that every or no training video carries cannot be learned: its score is the same for all videos.
    """

    def fit(self, features: Array, targets: Array) -> Baseline:
        """Learn from features (N, D) and targets (N, L), 0 or 1; returns itself.

        Raises:
            ValueError: shapes do not fit, or a feature is not finite.
        """
        features, targets = np.asarray(features), np.asarray(targets)
        if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or not len(features):
            raise ValueError(f"need features (N, D) and targets (N, L), N >= 1, got {features.shape}, {targets.shape}")
        if not np.isfinite(features).all():
            raise ValueError("a feature is not a finite number")
        self._center, spread = features.mean(0), features.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        targets = targets > 0
        self.prior = targets.mean(0)
        self._varied = np.flatnonzero((self.prior > 0) & (self.prior < 1))
        self._learn(self._scaled(features), targets[:, self._varied])
        return self

    def scores(self, features: Array) -> Array:
        """Return (N, L) float64, higher is more likely; comparable between labels as far as the method makes them."""
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1:] != self._center.shape:
            raise ValueError(f"features must be (N, {len(self._center)}) as at `fit`, got {features.shape}")
        found = np.tile(self._constant(), (len(features), 1))
        if len(self._varied):
            found[:, self._varied] = self._score(self._scaled(features))
        return found

    def _scaled(self, features: Array) -> Array:
        scaled: Array = (features - self._center) / self._spread
        return scaled

    def _constant(self) -> Array:
        """Scores (L,) of labels that are always or never there."""
        return self.prior.astype(np.float64)

    @abstractmethod
    def _learn(self, features: Array, targets: Array) -> None:
        """Learn labels of which each is there on some videos and not on others."""

    @abstractmethod
    def _score(self, features: Array) -> Array:
        """Return the scores of these labels."""


class LabelPrior(Baseline):
    """Every video gets the label frequencies of the training set: what is known without looking."""

    def _learn(self, features: Array, targets: Array) -> None:
        self._frequencies = targets.mean(0)

    def _score(self, features: Array) -> Array:
        return np.tile(self._frequencies, (len(features), 1))


class NearestNeighbours(Baseline):
    """The share of a label among the nearest training videos, near ones counting more.

    Args:
        k: neighbours; all of a smaller training set.
        metric: `euclidean` or `cosine`.
    """

    def __init__(self, k: int = 10, metric: str = "euclidean") -> None:
        if k < 1 or metric not in ("euclidean", "cosine"):
            raise ValueError(f"need k >= 1 and metric euclidean or cosine, got {k} and {metric!r}")
        self.k, self.metric = k, metric

    def _learn(self, features: Array, targets: Array) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._targets = targets.astype(np.float64)
        self._index = NearestNeighbors(n_neighbors=min(self.k, len(features)), metric=self.metric).fit(features)

    def _score(self, features: Array) -> Array:
        distance, row = self._index.kneighbors(features)  # (N, k)
        nearness = 1 / (distance + 1e-6 + 0.5 * distance.mean(1, keepdims=True))
        votes = np.einsum("nk,nkl->nl", nearness, self._targets[row]) / nearness.sum(1, keepdims=True)
        # As much prior as a tenth of a neighbour: labels that no neighbour has are ranked by their frequency.
        return (self.k * votes + 0.1 * self._targets.mean(0)) / (self.k + 0.1)


class _OneForEachLabel(Baseline):
    """One linear classifier a label, each against the rest; `c` is the inverse strength of its penalty."""

    def __init__(self, c: float = 1.0, *, balanced: bool = False, seed: int = 0) -> None:
        if c <= 0:
            raise ValueError(f"c is the inverse of the penalty and must be > 0, got {c}")
        self.c, self.balanced, self.seed = c, balanced, seed

    @abstractmethod
    def _make(self) -> Any:
        """Return an unfitted classifier."""

    def _learn(self, features: Array, targets: Array) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the penalty decides, not the last digit
            made = [self._make().fit(features, column) for column in targets.T]
        self._weights = np.stack([one.coef_[0] for one in made]) if made else np.zeros((0, features.shape[1]))
        self._bias = np.array([one.intercept_[0] for one in made])

    def _score(self, features: Array) -> Array:
        scores: Array = features @ self._weights.T + self._bias  # (N, L)
        return scores

    def _constant(self) -> Array:
        # Far outside what a classifier says of a label that it learned.
        return np.where(self.prior > 0.5, 30.0, -30.0)


class LinearSvm(_OneForEachLabel):
    """A linear support vector machine for each label; the score is the signed distance in units of the margin.

    Args:
        c: weight of the hinge losses against half the squared norm, > 0.
        balanced: weigh present and absent videos of a label equally.
        seed: of the solver's order.
    """

    def _make(self) -> Any:
        from sklearn.svm import LinearSVC

        weight = "balanced" if self.balanced else None
        return LinearSVC(C=self.c, class_weight=weight, random_state=self.seed, dual="auto", max_iter=2000)


class LogisticRegression(_OneForEachLabel):
    """A logistic regression for each label; the score is the logit.

    Args:
        c: weight of the log losses against half the squared norm, > 0.
        balanced: weigh present and absent videos of a label equally.
        seed: unused by its solver, which draws nothing.
    """

    def _make(self) -> Any:
        from sklearn.linear_model import LogisticRegression as Solver

        return Solver(C=self.c, class_weight="balanced" if self.balanced else None, max_iter=500)


BASELINES: dict[str, type[Baseline]] = {
    "knn": NearestNeighbours,
    "logistic_regression": LogisticRegression,
    "prior": LabelPrior,
    "svm": LinearSvm,
}


def create_baseline(name: str, **options: Any) -> Baseline:
    """Build a baseline of `BASELINES` by name with its own options.

    Raises:
        UnknownName: no baseline is called so.
    """
    if name not in BASELINES:
        raise UnknownName(
            f"No baseline is called {name!r}. {close_name(name, list(BASELINES))}There are {', '.join(BASELINES)}."
        )
    return BASELINES[name](**options)
