"""The plan of MiniMoments: which clip carries which labels, with exact counts, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reeltag.data.minimoments.labels import GROUPS, PARTNERS, REVERSALS

SPLITS = ("train", "val", "test")
PLAN_INDEX = 30_000_000  # seeds the plan of a split, beyond the index of any clip
FIRST_INDEX = {
    "train": 0,
    "val": 10_000_000,
    "test": 20_000_000,
}  # test clips do not depend on the number of train clips

# Shares of the clips of a split. Every order label has as many decoys as positives, and a motion label 7.4 %.
FIRST_APPEARANCE, SECOND_APPEARANCE, SCENE, MOTION, ORDER = 0.80, 0.15, 0.40, 0.074, 0.076
SOUND_TRACK, LABELLED_SOUND = 0.60, 0.45
AFFINITY = 0.35  # share of scenes and sounds that go to a partner appearance first
DECOYS = {"appears": 0.052, "vanishes": 0.052, "blinks": 0.048, "a_b_a": 0.06, "b_a_b": 0.06, "together": 0.032}
DECOY_REVERSALS = {"appears": "vanishes", "vanishes": "appears"}


@dataclass(frozen=True)
class ClipPlan:
    """What one clip shows and sounds like.

    Attributes:
        index: seeds the clip together with the seed of the set; unique over the splits.
        picture_index: seeds the picture; differs from `index` only in the second clip of a twin pair.
        split: `train`, `val` or `test`.
        reverse: the picture is drawn and then played backwards; the labels here are the ones after that.
        appearances: none, one or two labels.
        motion: a label or None.
        order: an order label, the name of a decoy, or None.
        scene: a label, or None for a background without label.
        sound: a label, `background` for a track without labelled sound, or None for no track.
    """

    index: int
    picture_index: int
    split: str
    reverse: bool = False
    appearances: tuple[str, ...] = ()
    motion: str | None = None
    order: str | None = None
    scene: str | None = None
    sound: str | None = None

    @property
    def picture_labels(self) -> tuple[str, ...]:
        """The labels that can be seen."""
        order = self.order if self.order not in DECOYS else None
        return tuple(label for label in (*self.appearances, self.motion, order, self.scene) if label)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, 1 to 4."""
        return self.picture_labels + ((self.sound,) if self.sound not in (None, "background") else ())

    @property
    def video_id(self) -> str:
        """The name of the clip, the same as its file's."""
        return f"{self.split}_{self.index - FIRST_INDEX[self.split]:05d}"

    @property
    def twin_id(self) -> str | None:
        """The clip whose picture this one shows backwards, or None."""
        return replace(self, index=self.picture_index).video_id if self.reverse else None

    @property
    def pair(self) -> str:
        """The motion labels that playing backwards swaps, sorted and joined by `/`; empty without motion."""
        return "/".join(sorted((self.motion, REVERSALS[self.motion]))) if self.motion else ""

    def backwards(self) -> ClipPlan:
        """Return the plan whose picture is this one's played backwards."""
        order = self.order and REVERSALS.get(self.order, DECOY_REVERSALS.get(self.order, self.order))
        return replace(self, motion=REVERSALS.get(self.motion or ""), order=order, reverse=not self.reverse)


def plan_split(split: str, num_clips: int, *, seed: int, tail: float = 1.0, twins: bool = False) -> list[ClipPlan]:
    """Return the plans of one split; label counts are exact up to rounding.

    Args:
        split: `train`, `val` or `test`.
        num_clips: how many clips, >= 0.
        seed: seed of the set.
        tail: commonest over rarest label within appearance, sound and scene; 1 gives equal counts.
        twins: clips with motion come in pairs whose pictures are each other's reversal, so that no trait of the picture
            but its direction tells one label of a reversal pair from the other. Sounds are dealt without regard to it.

    Returns:
        `num_clips` plans in the order of their index.
    """
    rng = np.random.default_rng([seed, PLAN_INDEX + SPLITS.index(split)])
    per_label = min(round(MOTION * num_clips), num_clips // len(GROUPS["motion"]))
    moving = [label for label in GROUPS["motion"] for _ in range(per_label)]
    if twins:
        moving = [label for label in GROUPS["motion"][::2] for _ in range(per_label)]
    num_single = num_clips - len(moving) * (2 if twins else 1)
    blank = ClipPlan(0, 0, split)
    with_motion = [replace(blank, motion=label) for label in moving]
    without = [blank] * num_single
    # With twins, clips with motion count twice: dealing to both kinds apart keeps the counts of labels equal.
    heaps = [with_motion, without] if twins else [with_motion + without]
    units = [unit for heap in heaps for unit in _deal_picture(heap, tail, rng)]
    clips = [clip for unit in units for clip in ([unit, unit.backwards()] if twins and unit.motion else [unit])]
    return _number(_deal_sound(clips, tail, rng), rng)


def _number(clips: list[ClipPlan], rng: np.random.Generator) -> list[ClipPlan]:
    """Shuffle and number the clips; the second of a twin pair takes the picture of the clip before it."""
    first = FIRST_INDEX[clips[0].split] if clips else 0
    places = rng.permutation(len(clips))
    numbered: list[ClipPlan] = []
    for position, clip in enumerate(clips):
        index = first + int(places[position])
        picture = numbered[-1].index if clip.reverse else index
        numbered.append(replace(clip, index=index, picture_index=picture))
    return sorted(numbered, key=lambda clip: clip.index)


def _counts(total: int, weights: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Split `total` in proportion to the weights by largest remainder."""
    exact = total * np.asarray(weights) / np.sum(weights)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def _tokens(labels: Sequence[str], total: int, tail: float, rng: np.random.Generator) -> list[str]:
    """Return `total` labels in random order, with counts that fall geometrically from the first label to the last."""
    weights = np.geomspace(tail, 1.0, len(labels))
    tokens = [label for label, count in zip(labels, _counts(total, weights), strict=True) for _ in range(count)]
    return [tokens[i] for i in rng.permutation(len(tokens))]


def _shuffled(items: Sequence[int], rng: np.random.Generator) -> list[int]:
    return [items[i] for i in rng.permutation(len(items))]


def _deal_picture(units: list[ClipPlan], tail: float, rng: np.random.Generator) -> list[ClipPlan]:
    """Add order, appearances and scene; nobody gets more than four labels."""
    units, everyone = list(units), range(len(units))
    shares = dict.fromkeys(GROUPS["order"], ORDER) | DECOYS
    kinds = list(shares)
    counts = _counts(len(units), [*shares.values(), 1 - sum(shares.values())])
    orders = [kind for kind, count in zip(kinds, counts, strict=False) for _ in range(count)]
    for place, kind in zip(_shuffled(everyone, rng), orders, strict=False):
        units[place] = replace(units[place], order=kind)

    seen = _tokens(GROUPS["appearance"], round((FIRST_APPEARANCE + SECOND_APPEARANCE) * len(units)), tail, rng)
    num_first = round(FIRST_APPEARANCE * len(units))
    for place, label in zip(_shuffled(everyone, rng), seen[:num_first], strict=False):
        units[place] = replace(units[place], appearances=(label,))
    scenes = _tokens(GROUPS["scene"], round(SCENE * len(units)), tail, rng)
    for place, label in _deal(scenes, units, _shuffled(everyone, rng), rng):
        units[place] = replace(units[place], scene=label)

    room = [i for i in _shuffled(everyone, rng) if units[i].appearances and len(units[i].picture_labels) < 4]
    for label in seen[num_first:]:
        other = next((i for i in room if units[i].appearances != (label,)), None)
        if other is not None:
            room.remove(other)
            units[other] = replace(units[other], appearances=(*units[other].appearances, label))
    return units


def _deal_sound(clips: list[ClipPlan], tail: float, rng: np.random.Generator) -> list[ClipPlan]:
    """Add the tracks: first to the clips that show no label, never a labelled sound to one that shows four."""
    clips = list(clips)
    num_tracks, num_labelled = round(SOUND_TRACK * len(clips)), round(LABELLED_SOUND * len(clips))
    order = sorted(_shuffled(range(len(clips)), rng), key=lambda i: bool(clips[i].picture_labels))
    able = [i for i in order if len(clips[i].picture_labels) < 4]
    num_bare = sum(not clip.picture_labels for clip in clips)
    sounds = _tokens(GROUPS["sound"], min(max(num_labelled, num_bare), len(able)), tail, rng)
    for place, label in [
        *zip(able[:num_bare], sounds[:num_bare], strict=False),
        *_deal(sounds[num_bare:], clips, able[num_bare:], rng),
    ]:
        clips[place] = replace(clips[place], sound=label)
    quiet = _shuffled([i for i in order if clips[i].sound is None], rng)
    for place in quiet[: max(num_tracks - len(sounds), 0)]:
        clips[place] = replace(clips[place], sound="background")
    return clips


def _deal(
    tokens: Sequence[str], clips: Sequence[ClipPlan], places: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, str]]:
    """Give every token a place of its own; a share of them, AFFINITY, looks for a partner appearance first."""
    free = dict.fromkeys(places)  # an ordered set
    dealt = []
    for label in tokens:
        place = None
        if rng.random() < AFFINITY:
            place = next((i for i in free if set(clips[i].appearances) & set(PARTNERS[label])), None)
        place = next(iter(free)) if place is None else place
        del free[place]
        dealt.append((place, label))
    return dealt
