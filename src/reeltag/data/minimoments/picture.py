"""The picture of a MiniMoments clip: where everything is in every frame, and drawing it."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reeltag.data.minimoments.plan import ClipPlan
from reeltag.data.minimoments.sprites import NEUTRALS, paste, sprite

NUM_FRAMES, FPS, SIDE_PX = 36, 12, 112
MARGIN_PX = 16  # how far the background can move to each side
CORNERS_PX = ((22, 22), (90, 22), (22, 90), (90, 90))
# The axis of each motion label and its sign on the screen: x rightwards, y downwards, log radius, angle clockwise.
AXES = {
    "motion_left": (0, -1), "motion_right": (0, 1), "motion_up": (1, -1), "motion_down": (1, 1),
    "motion_shrink": (2, -1), "motion_grow": (2, 1), "motion_counter_clockwise": (3, -1), "motion_clockwise": (3, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn, frame by frame.

    Attributes:
        mover: name of the sprite that moves if the clip has a motion label.
        track: (T, 4) x, y in pixels, log of the radius in pixels, angle in radians, of the mover.
        still: name of the second sprite, or None.
        still_at: x, y, radius in pixels and angle of the second sprite.
        cards: (T,) names of cards, empty where no card is shown.
        card_at: x, y and radius of the cards.
        drift: (T, 2) offset of the background in pixels, rightwards and downwards.
        shake: (T, 2) offset of everything, in pixels.
    """

    mover: str
    track: NDArray[np.float64]
    still: str | None
    still_at: tuple[float, float, float, float]
    cards: tuple[str, ...]
    card_at: tuple[float, float, float]
    drift: NDArray[np.float64]
    shake: NDArray[np.float64]


def compose(plan: ClipPlan, rng: np.random.Generator) -> Picture:
    """Draw the factors of a clip at random.

    Every degree of freedom of the mover is start + span * u; u sweeps from 0 to 1 or back if the label asks for it
    and is one random number if not. A single frame is therefore distributed alike under every motion label and under
    none, and the frames of opposite directions are the same set.

    Args:
        plan: of the clip; for one that is played backwards, of what is drawn before that.
        rng: draws everything here.
    """
    span = np.array([*rng.uniform(40, 54, 2), np.log(2.0), rng.uniform(2.2, 3.0)])  # px, px, -, rad
    start = np.array([*rng.uniform(25, 87 - span[:2]), np.log(rng.uniform(14, 16)), rng.uniform(0, 2 * np.pi)])
    u = np.tile(rng.random(4), (NUM_FRAMES, 1))  # (T, 4)
    if plan.motion:
        axis, sign = AXES[plan.motion]
        u[:, axis] = np.linspace(0, 1, NUM_FRAMES)[::sign]
    track = start + span * u

    things = [name.removeprefix("appearance_") for name in plan.appearances]
    grey = str(rng.choice(NEUTRALS))
    if len(things) == 1 and rng.random() < 0.25:
        things.insert(0, grey)  # a mover without label; the labelled thing keeps still
    elif len(things) < 2 and rng.random() < 0.3:
        things = [*things, grey] if things else [grey, str(rng.choice(NEUTRALS))]
    things = things or [grey]

    # Cards stand in the corner farthest from the middle of the mover's range, which is the same whatever moves.
    middle = start[:2] + span[:2] / 2
    far = sorted(range(4), key=lambda i: -float(np.hypot(*(middle - CORNERS_PX[i]))))
    card_corner, still_corner = CORNERS_PX[far[0]], CORNERS_PX[far[int(rng.integers(1, 4))]]
    card_x, card_y = card_corner + rng.uniform(-2, 2, 2)
    still_x, still_y = still_corner + rng.uniform(-2, 6, 2) * np.sign(56 - np.array(still_corner))
    return Picture(
        mover=things[0],
        track=track,
        still=things[1] if len(things) > 1 else None,
        still_at=(still_x, still_y, rng.uniform(15, 20), rng.uniform(0, 2 * np.pi)),
        cards=_cards(plan.order, rng),
        card_at=(card_x, card_y, rng.uniform(16, 19)),
        drift=np.linspace(-0.5, 0.5, NUM_FRAMES)[:, None] * rng.uniform(2, 9, 2) * rng.choice([-1, 1], 2),
        shake=rng.uniform(-0.5, 0.5, (NUM_FRAMES, 2)),
    )


def _cards(order: str | None, rng: np.random.Generator) -> tuple[str, ...]:
    """Return the card of every frame, (T,); each phase lasts at least 7 of the 36 frames.

    Cards a and b fill the whole clip: a blank at its ends would tell the ends from the middle.
    """
    quarter = NUM_FRAMES // 4
    first, second, third = np.array([quarter, 2 * quarter, 3 * quarter]) + rng.integers(-1, 2, 3)
    middle = int(second + rng.integers(-2, 3))
    blink = [("", "c"), ("c", "")][int(rng.integers(2))] * 2
    phases: list[tuple[str, int]]
    match order:
        case None:
            phases = []
        case "order_appears_vanishes":
            phases = [("", first), ("c", third)]
        case "order_vanishes_appears":
            phases = [("c", first), ("", third), ("c", NUM_FRAMES)]
        case "order_a_before_b":
            phases = [("a", middle), ("b", NUM_FRAMES)]
        case "order_b_before_a":
            phases = [("b", middle), ("a", NUM_FRAMES)]
        case "appears":
            phases = [("", middle), ("c", NUM_FRAMES)]
        case "vanishes":
            phases = [("c", middle)]
        case "blinks":
            phases = list(zip(blink, (first, second, third, NUM_FRAMES), strict=True))
        case "a_b_a":
            phases = [("a", first), ("b", third), ("a", NUM_FRAMES)]
        case "b_a_b":
            phases = [("b", first), ("a", third), ("b", NUM_FRAMES)]
        case "together":
            phases = [("both", NUM_FRAMES)]
        case _:
            raise ValueError(f"no order is called {order!r}")
    shown = [""] * NUM_FRAMES
    begin = 0
    for card, end in phases:
        shown[begin:end] = [card] * (int(end) - begin)
        begin = int(end)
    return tuple(shown)


def render(picture: Picture, scene: str | None, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the frames.

    Args:
        picture: where everything is.
        scene: the scene's label, or None for a background without label.
        rng: draws colours and the background's pattern.

    Returns:
        (T, H, W, 3) RGB.
    """
    backdrop = _backdrop(scene, rng)
    mover = sprite(picture.mover, rng)
    still = sprite(picture.still, rng) if picture.still else None
    cards = {name: sprite(name, rng) for name in sorted(set(picture.cards) - {""})}
    frames = np.empty((NUM_FRAMES, SIDE_PX, SIDE_PX, 3), np.uint8)
    for t in range(NUM_FRAMES):
        shake_x, shake_y = picture.shake[t]
        left, top = np.rint(2 * (MARGIN_PX - picture.drift[t] - picture.shake[t])).astype(int)  # in half pixels
        frame = backdrop[top : top + 2 * SIDE_PX : 2, left : left + 2 * SIDE_PX : 2].copy()
        if still is not None:
            x, y, radius, angle = picture.still_at
            paste(frame, still, x + shake_x, y + shake_y, radius, angle)
        x, y, log_radius, angle = picture.track[t]
        paste(frame, mover, x + shake_x, y + shake_y, float(np.exp(log_radius)), angle)
        if picture.cards[t]:
            x, y, radius = picture.card_at
            paste(frame, cards[picture.cards[t]], x + shake_x, y + shake_y, radius, 0.0)
        frames[t] = frame
    return frames


def _backdrop(scene: str | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a background of (2 * (H + 2 * MARGIN), ..., 3) half pixels in [0, 255], in one dull colour."""
    line = np.arange(2 * (SIDE_PX + 2 * MARGIN_PX), dtype=np.float32) / 2
    phase_x, phase_y, turn = rng.uniform(0, 100), rng.uniform(0, 100), rng.uniform(-0.15, 0.15)
    period = rng.uniform(15, 20)  # px
    x = (line + phase_x) + turn * line[:, None]
    y = (line[:, None] + phase_y) - turn * line
    tau = np.float32(2 * np.pi / period)
    if scene == "scene_bricks":
        row = np.floor(y / (0.6 * period))
        along = (x / (1.3 * period) + 0.5 * (row % 2)) % 1
        pattern = np.where((along < 0.12) | ((y / (0.6 * period)) % 1 < 0.22), 1.0, -0.3)
    elif scene == "scene_waves":
        pattern = np.sin(tau * y + 1.6 * np.sin(0.8 * tau * x))
    elif scene == "scene_dots":
        pattern = np.where(np.hypot(x % period - period / 2, y % period - period / 2) < 0.31 * period, 1.0, -0.5)
    elif scene == "scene_lattice":
        pattern = np.where(np.minimum((x + y) % period, (x - y) % period) < 0.2 * period, -1.0, 0.4)
    else:
        pattern = np.zeros_like(x)
        for _ in range(4):
            fx, fy = rng.uniform(-0.09, 0.09, 2)
            pattern += 0.4 * np.sin(fx * x + fy * y + rng.uniform(0, 2 * np.pi), dtype=np.float32)
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.22), rng.uniform(0.38, 0.6)), np.float32)
    contrast = rng.uniform(0.22, 0.34)
    return (255 * colour * (1 + contrast * pattern.astype(np.float32))[..., None]).clip(0, 255)
