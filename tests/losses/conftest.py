"""Cases that every loss must survive."""

import pytest
import torch
from torch import Tensor


@pytest.fixture(
    params=[
        *("regular", "no_label", "all_labels", "extreme", "extreme_wrong", "one_clip"),
        *("nothing_present", "nothing_absent", "one_label"),
    ]
)
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Logits and targets (B, L) in float64, some of them degenerate."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, (4, 7), generator=generator).double()
    if request.param == "no_label":
        targets[1] = 0
    elif request.param == "all_labels":
        targets[2] = 1
    elif request.param == "extreme":
        logits = 1e4 * (2 * targets - 1)
    elif request.param == "extreme_wrong":
        logits = 1e4 * (1 - 2 * targets)
    elif request.param == "one_clip":
        return logits[:1], targets[:1]
    elif request.param == "one_label":
        return logits[:, :1], targets[:, :1]
    elif request.param in ("nothing_present", "nothing_absent"):
        return 3e3 * logits, torch.full_like(targets, request.param == "nothing_absent")
    return logits, targets
