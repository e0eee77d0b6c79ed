"""MiniMoments: a generated benchmark of real mp4 files whose 30 labels have known causes."""

from reeltag.data.minimoments.labels import GROUPS, LABELS, MIRRORS, PARTNERS, REVERSALS
from reeltag.data.minimoments.plan import ClipPlan
from reeltag.data.minimoments.write import compose_clip, plan_clips, render_clip, write_clip, write_minimoments

__all__ = [
    "GROUPS",
    "LABELS",
    "MIRRORS",
    "PARTNERS",
    "REVERSALS",
    "ClipPlan",
    "compose_clip",
    "plan_clips",
    "render_clip",
    "write_clip",
    "write_minimoments",
]
