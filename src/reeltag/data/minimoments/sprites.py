"""What MiniMoments shows: eight coloured shapes, grey shapes without label, and the cards of the order labels."""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Grid = NDArray[np.float64]
Mask = NDArray[np.bool_]

EXTENT = 1.06  # a sprite's texture spans [-EXTENT, EXTENT] radii; every shape lies in the disc of that radius
SIZES_PX = (64, 128)  # two resolutions of each texture, for radii below and above 22 px
# One hue anchor per appearance, in degrees; the shape and the texture differ as well.
HUES_DEG = {"disc": 0, "square": 45, "triangle": 90, "star": 135, "cross": 180, "ring": 225, "moon": 270, "bar": 315}
NEUTRALS = ("egg", "slab", "drop")
CARDS = ("a", "b", "c", "both")


def _wave(x: Grid, periods: float) -> Mask:
    return np.sin(np.pi * periods * x) > 0


def _polygon(x: Grid, y: Grid, sides: int, inradius: float) -> Mask:
    angles = np.arange(sides) * (2 * np.pi / sides) + np.pi / 2
    return np.logical_and.reduce([x * np.cos(a) + y * np.sin(a) < inradius for a in angles])


def _shape(name: str, x: Grid, y: Grid) -> tuple[Mask, Mask]:
    """Return where a shape is and its light or dark parts; none looks the same after less than half a turn."""
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    if name == "disc":
        return r < 1, _wave(y, 2.6)
    if name == "square":
        return np.maximum(abs(x), abs(y)) < 0.74, _wave(x + 1, 2.7) == _wave(y + 1, 2.7)
    if name == "triangle":
        return _polygon(x, y, 3, 0.52), _wave(y + 0.52, 1.3)
    if name == "star":
        folded = np.abs((angle + np.pi / 2) % (2 * np.pi / 5) - np.pi / 5)  # 0 at a tip (r 1.04), pi / 5 in a notch
        return r * np.cos(folded - 1.11) < 0.46, r >= 0.33
    if name == "cross":
        inside = (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.98)
        return inside, abs(y) < 0.3
    if name == "ring":
        return (r < 1) & (r > 0.5) & (np.abs(angle) > 0.5), _wave(angle / np.pi + 0.02, 6)
    if name == "moon":
        return (r < 1) & (np.hypot(x - 0.5, y) > 0.72), np.hypot(x + 0.62, abs(y) - 0.33) >= 0.17
    if name == "bar":
        return (abs(x) < 0.97) & (abs(y) < 0.4), _wave(x + 0.5 * y + 0.1, 3.2)
    if name == "egg":
        return np.hypot(x, y / 0.74) < 1, x > 0
    if name == "slab":
        return (abs(x) < 0.92) & (abs(y) < 0.5) & (abs(x) + abs(y) < 1.25), y > 0
    if name == "drop":
        return (r < 0.75) | ((x > 0) & (abs(y) < 0.75 - 0.72 * x) & (x < 1)), (r > 0.35) ^ (y > 0)
    raise ValueError(f"no shape is called {name!r}")


def _card(name: str, x: Grid, y: Grid) -> tuple[Mask, Mask]:
    """Return a card: a is light with a dark disc, b dark with a light cross, c striped, both half of a and of b."""
    square = np.maximum(abs(x), abs(y))
    inside = square < 0.92
    if name == "a":
        return inside, np.hypot(x, y) > 0.4
    if name == "b":
        return inside, (np.abs(abs(x) - abs(y)) < 0.2) & (square < 0.75)
    if name == "c":
        return np.hypot(x, y) < 1, _wave(x, 3.0)
    left, right = _card("a", 2 * x + 0.92, y)[1], _card("b", 2 * x - 0.92, y)[1]
    return inside, np.where(x < 0, left, right)


@cache
def _texture(name: str, size_px: int) -> Array:
    """Return (size, size, 3): opacity, tone and spot, each in [0, 1], averaged from a grid four times as fine."""
    line = (np.arange(4 * size_px) + 0.5) / (2 * size_px) - 1
    x, y = np.meshgrid(line * EXTENT, line * EXTENT)
    inside, tone = _card(name, x, y) if name in CARDS else _shape(name, x, y)
    # A white spot away from the centre gives every shape a heading: only a full turn brings it back.
    where = {"star": (0.62, 0.2), "cross": (0.72, 0.0), "ring": (-0.75, 0.0), "moon": (-0.82, 0.0)}.get(
        name, (0.4, 0.0)
    )
    spot = np.hypot(x - where[0], y - where[1]) < 0.17
    layers = np.stack([inside, tone, spot & (name in HUES_DEG)], -1).astype(np.float32)
    return layers.reshape(size_px, 4, size_px, 4, 3).mean((1, 3), dtype=np.float32)


def sprite(name: str, rng: np.random.Generator) -> dict[int, Array]:
    """Return the textures of one thing in the colours of one clip.

    Args:
        name: a key of HUES_DEG, or a name of NEUTRALS or CARDS.
        rng: draws the shades.

    Returns:
        By texture size: (size, size, 4) red, green, blue in [0, 255] and opacity in [0, 1].
    """
    if name in CARDS:
        light, dark = rng.uniform(235, 255), rng.uniform(0, 20)
        high, low = np.full(3, light), np.full(3, dark)
    else:
        if name in HUES_DEG:
            hue = (HUES_DEG[name] + rng.uniform(-9, 9)) / 360 % 1
            saturation, value = rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0)
        else:
            hue, saturation, value = rng.random(), rng.uniform(0, 0.12), rng.uniform(0.75, 0.92)
        high = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        low = high * (rng.uniform(0.42, 0.55) if name in HUES_DEG else rng.uniform(0.22, 0.32))
    coloured = {}
    for size in SIZES_PX:
        opacity, tone, spot = np.moveaxis(_texture(name, size), -1, 0)[..., None]  # each (size, size, 1)
        colour = low + (high - low) * tone
        colour = colour + (250 - colour) * spot
        coloured[size] = np.concatenate([colour, opacity], -1).astype(np.float32)
    return coloured


def paste(
    frame: Array, textures: dict[int, Array], x_px: float, y_px: float, radius_px: float, angle_rad: float
) -> None:
    """Draw a thing into a frame in place; what lies outside the frame is cut off.

    Args:
        frame: (H, W, 3) in [0, 255].
        textures: what `sprite` returned.
        x_px: the centre, rightwards.
        y_px: the centre, downwards.
        radius_px: half of the thing's longest side.
        angle_rad: its heading; a rising angle turns it clockwise on the screen.
    """
    height, width, _ = frame.shape
    reach = radius_px * EXTENT
    left, right = max(int(np.ceil(x_px - reach)), 0), min(int(x_px + reach) + 1, width)
    top, bottom = max(int(np.ceil(y_px - reach)), 0), min(int(y_px + reach) + 1, height)
    if left >= right or top >= bottom:
        return
    size = SIZES_PX[radius_px >= 22]
    scale = size / (2 * reach)
    cos, sin = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    dx = np.arange(left, right, dtype=np.float32) - np.float32(x_px)
    dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(y_px))[:, None]
    column = (cos * dx + sin * dy + size / 2).astype(np.int32).clip(0, size - 1)
    row = (-sin * dx + cos * dy + size / 2).astype(np.int32).clip(0, size - 1)
    texels = textures[size][row, column]  # (h, w, 4)
    region = frame[top:bottom, left:right]
    region += (texels[..., :3] - region) * texels[..., 3:]
