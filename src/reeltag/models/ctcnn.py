"""CT-CNN: SlowFast whose slow path's frames see their neighbours by temporal shift."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from reeltag.models import MODELS
from reeltag.models.slowfast import VARIANTS, slowfast

# Source: RippleAI's entry to Multi-Moments in Time 2019 (section 2.2, "CT-CNN: temporal shift for slow fast network"):
# "we implement variant of SlowFast network so that spatial features flows across slow path with Temporal Shift Module
# layers". It says no more. Assumed: the residual shift of TSM (arXiv:1811.08383) by one eighth of the channels each way
# in every block of the slow path, and SlowFast's own temporal kernels beside it.
FRACTION = 1 / 8

for _name, _of in (("ctcnn_r50", "slowfast_r50"), ("ctcnn_r101", "slowfast_r101"), ("ctcnn_mini", "slowfast_mini")):
    MODELS.register(_name)(partial(slowfast, variant=replace(VARIANTS[_of], shift=FRACTION)))
