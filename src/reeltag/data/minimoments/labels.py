"""The 30 labels of MiniMoments, their groups, and which labels swap when a clip is mirrored or played backwards."""

from __future__ import annotations

APPEARANCES = ["disc", "square", "triangle", "star", "cross", "ring", "moon", "bar"]
MOTIONS = ["left", "right", "up", "down", "grow", "shrink", "clockwise", "counter_clockwise"]
ORDERS = ["appears_vanishes", "vanishes_appears", "a_before_b", "b_before_a"]
SOUNDS = ["tone", "rising", "falling", "bursts", "clicks", "chord"]
SCENES = ["bricks", "waves", "dots", "lattice"]

GROUPS: dict[str, list[str]] = {
    "appearance": [f"appearance_{name}" for name in APPEARANCES],
    "motion": [f"motion_{name}" for name in MOTIONS],
    "order": [f"order_{name}" for name in ORDERS],
    "sound": [f"sound_{name}" for name in SOUNDS],
    "scene": [f"scene_{name}" for name in SCENES],
}
LABELS: list[str] = [label for group in GROUPS.values() for label in group]


def _both_ways(*pairs: tuple[str, str]) -> dict[str, str]:
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


# What each label becomes when the frames are played backwards; a label that is not a key stays what it is. A thing that
# appears and then vanishes does so backwards too, so that pair of order labels is no reversal pair.
REVERSALS: dict[str, str] = _both_ways(
    ("motion_left", "motion_right"),
    ("motion_up", "motion_down"),
    ("motion_grow", "motion_shrink"),
    ("motion_clockwise", "motion_counter_clockwise"),
    ("order_a_before_b", "order_b_before_a"),
)
# What each label becomes in a mirror whose left and right ("horizontal") or top and bottom ("vertical") change places.
MIRRORS: dict[str, dict[str, str]] = {
    "horizontal": _both_ways(("motion_left", "motion_right"), ("motion_clockwise", "motion_counter_clockwise")),
    "vertical": _both_ways(("motion_up", "motion_down"), ("motion_clockwise", "motion_counter_clockwise")),
}
# Pairs planned to meet more often than chance: a scene and a sound prefer these appearances. Motion and order never do.
PARTNERS: dict[str, tuple[str, ...]] = {
    "scene_bricks": ("appearance_disc", "appearance_ring"),
    "scene_waves": ("appearance_square", "appearance_moon"),
    "scene_dots": ("appearance_triangle", "appearance_bar"),
    "scene_lattice": ("appearance_star", "appearance_cross"),
    "sound_tone": ("appearance_disc", "appearance_moon"),
    "sound_rising": ("appearance_star",),
    "sound_falling": ("appearance_bar",),
    "sound_bursts": ("appearance_square",),
    "sound_clicks": ("appearance_triangle", "appearance_cross"),
    "sound_chord": ("appearance_ring",),
}
