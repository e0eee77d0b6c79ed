"""Score matrices that the metric tests share."""

from collections.abc import Callable

import numpy as np
import pytest

Case = tuple[np.ndarray, np.ndarray]


def draw(num_videos: int, num_labels: int, *, levels: int | None = None, density: float = 0.2, seed: int = 0) -> Case:
    """Scores (N, L) that know a little of the truth; `levels` rounds them so that many tie."""
    generator = np.random.default_rng(seed)
    targets = generator.random((num_videos, num_labels)) < density
    scores = generator.standard_normal((num_videos, num_labels)) + targets
    if levels is not None:
        scores = np.round(scores * levels / 4) / levels
    return scores, targets


@pytest.fixture(name="draw", scope="session")
def draw_fixture() -> Callable[..., Case]:
    return draw


@pytest.fixture(params=["clean", "ties", "sparse", "float32", "one_video", "one_label"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "ties":
        return draw(60, 17, levels=3)
    if request.param == "sparse":  # labels without positives and videos without labels
        return draw(40, 60, density=0.02)
    if request.param == "float32":
        scores, targets = draw(200, 30)
        return scores.astype(np.float32), targets
    if request.param == "one_video":
        return draw(1, 12, density=0.4)
    if request.param == "one_label":
        return draw(30, 1, density=0.5)
    return draw(60, 25)
