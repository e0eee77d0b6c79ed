"""One video as a tagger sees it, with parts of it hidden: stretches of time, places, whole modalities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from reeltag.data.looking import FLOW_ZERO
from reeltag.data.sound_views import even_test_crops, trimmed
from reeltag.data.sources import FileSource
from reeltag.errors import MediaError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.predict import Tagger
from reeltag.media import Sound, Video

NUM_PARTS, NUM_CELLS = 8, 16  # of the time, and along the short side of the picture
_BYTES_AT_ONCE = 32 << 20


@dataclass(frozen=True)
class _Look:
    """What one member is given, and when and where each piece of it is in the file.

    Attributes:
        tagger: the member.
        batch: of one video, or None where it has nothing for this member.
        used: the modalities that are there.
        frames_s: (V, T) times of the frames, or None.
        sound_s: (V, N) times of the samples, NaN where there is padding, or None.
        vectors_s: (V, T) times of stored features, or None.
        places: (V, h, w, 2) where each pixel lies in the whole frame, x and y in [-1, 1], or None.
    """

    tagger: Tagger
    batch: dict[str, Tensor] | None = None
    used: list[str] = field(default_factory=list)
    frames_s: Tensor | None = None
    sound_s: Tensor | None = None
    vectors_s: Tensor | None = None
    places: Tensor | None = None

    def times_s(self) -> list[Tensor]:
        """Return the times of all that is looked at."""
        given = (self.frames_s, self.sound_s, self.vectors_s)
        return [times.flatten()[~times.flatten().isnan()] for times in given if times is not None]


class Subject:
    """A video before a tagger, parts of which can be hidden.

    What is hidden is replaced by the mean colour of the clip, by no motion, by silence; stored features are masked.

    Args:
        tagger: a model or an ensemble; members hide the same parts.
        media: the open file.
        name: of the file.
        num_parts: K, equal parts of the time that the tagger looks at.
        num_cells: cells of the grid along the short side of the picture.

    Attributes:
        edges_s: (K + 1,) where the parts begin and end, on the clock of the file.
        grid: rows and columns of cells over the whole frame; (0, 0) where no picture is looked at.
        modalities: those that are looked at and there.
        looks: by member.

    Raises:
        MediaError: the file cannot be read, or has nothing of what the tagger takes.
    """

    def __init__(
        self,
        tagger: Tagger | EnsembleTagger,
        media: Video | Sound,
        name: str,
        *,
        num_parts: int = NUM_PARTS,
        num_cells: int = NUM_CELLS,
    ) -> None:
        self.tagger = tagger
        members = tagger.taggers if isinstance(tagger, EnsembleTagger) else [tagger]
        self.looks = [_look(member, media, name, strict=len(members) == 1) for member in members]
        there = [look for look in self.looks if look.batch is not None]
        if not there:
            what = " and ".join(tagger.takes)
            raise MediaError("unsupported", name, f"the members take {what}, and the file has nothing of these")
        used = [modality for look in there for modality in look.used]
        self.modalities = [modality for modality in tagger.takes if modality in used]
        self.edges_s = _edges([times for look in there for times in look.times_s()], media.duration_s, num_parts)
        self.grid = (0, 0)
        if isinstance(media, Video) and any(look.places is not None for look in there):
            short = min(media.width, media.height)
            self.grid = (round(media.height / short * num_cells), round(media.width / short * num_cells))

    @property
    def num_parts(self) -> int:
        """K."""
        return len(self.edges_s) - 1

    def scores(
        self, keep: Tensor | None = None, sound: Tensor | None = None, without: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Return (N, L) scores of N versions of the video.

        Args:
            keep: (N, K, rows, columns) in [0, 1]: how much of each cell of each part of the pictures is left; None
                leaves all. Between the middles of cells it is interpolated.
            sound: (N, K), 1 where a part of the sound and of stored features is left and 0 where not; None leaves all.
            without: modalities that are taken away; then what a model says without any is a score too.
        """
        count = len(keep) if keep is not None else len(sound) if sound is not None else 1
        values, covered = [], []
        for look in self.looks:
            gone = look.batch is None or not set(look.used) - set(without)
            fusion = look.batch is not None and look.tagger.loaded.model.input_kind == "fusion"
            speaks = not gone or (fusion and len(self.looks) == 1)
            covered.append(speaks)
            values.append(
                torch.cat([look.tagger.scores_of(b) for b in self._versions(look, count, keep, sound, without)])
                if speaks
                else torch.full((count, len(self.tagger.label_names)), 0.5)
            )
        if not isinstance(self.tagger, EnsembleTagger):
            return np.asarray(values[0].numpy())
        known = np.repeat(np.array(covered)[:, None], count, axis=1)  # (M, N)
        return np.asarray(self.tagger.fuse([value.numpy() for value in values], known))

    def _versions(
        self, look: _Look, count: int, keep: Tensor | None, sound: Tensor | None, without: Sequence[str]
    ) -> Iterator[dict[str, Tensor]]:
        batch = look.batch
        assert batch is not None  # for `speaks`
        size = sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
        step = max(1, _BYTES_AT_ONCE // size)
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            number = rows.stop - rows.start
            made = {name: tensor.expand(number, *tensor.shape[1:]) for name, tensor in batch.items()}
            if keep is not None and look.places is not None and look.frames_s is not None:
                shown = self._shown(keep[rows], look.places, self._parts(look.frames_s))  # (n, V, T, 1, h, w)
                if "video" in made and "rgb" in look.used:
                    mean = batch["video"].float().mean((1, 2, 4, 5), keepdim=True)
                    made["video"] = _blended(made["video"], shown, mean)
                if "flow" in made and "flow" in look.used:
                    made["flow"] = _blended(made["flow"], shown, torch.tensor(float(FLOW_ZERO)))
            if sound is not None:
                made |= self._quiet(look, made, sound[rows])
            if without and "present" in made:
                names = look.tagger.modalities
                left = torch.tensor([modality not in without for modality in names])
                made["present"] = made["present"] & left
            yield made

    def _parts(self, times_s: Tensor) -> Tensor:
        """Return which part each time lies in."""
        inner = torch.from_numpy(self.edges_s[1:-1])
        return torch.bucketize(times_s.nan_to_num(0.0), inner, right=True)

    def _shown(self, keep: Tensor, places: Tensor, parts: Tensor) -> Tensor:
        """Return (n, V, T, 1, h, w): how much of each pixel is left."""
        views = []
        for place, own in zip(places, parts, strict=True):
            grid = place.expand(len(keep), -1, -1, -1)
            each = grid_sample(keep.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
            views.append(each[:, own])  # (n, T, h, w)
        return torch.stack(views, 1).unsqueeze(3)

    def _quiet(self, look: _Look, made: dict[str, Tensor], sound: Tensor) -> dict[str, Tensor]:
        changed = {}
        if "waveform" in made and look.sound_s is not None:
            changed["waveform"] = made["waveform"] * sound.float()[:, self._parts(look.sound_s)]
        if "features" in made and look.vectors_s is not None:
            left = sound.bool()[:, self._parts(look.vectors_s)] & made["mask"]
            changed["mask"] = left
            changed["features"] = made["features"] * left.unsqueeze(-1)
        return changed


def _blended(pixels: Tensor, shown: Tensor, fill: Tensor) -> Tensor:
    return (pixels * shown + fill * (1 - shown)).round().to(torch.uint8)


def _look(member: Tagger, media: Video | Sound, name: str, *, strict: bool) -> _Look:
    """Look at a file; one that has nothing for the member is an error if `strict`, else no batch."""
    try:
        if member.features is not None:
            batch = member.features.batch(media, name)
            views, length = batch["features"].shape[1:3]
            times = (torch.arange(length, dtype=torch.float64) + 0.5) / length * media.duration_s  # evenly spread
            return _Look(member, batch, list(member.takes), vectors_s=times.expand(views, -1))
        source = FileSource(name, media)
        batch, used = member.look(source)
    except MediaError as error:
        if strict or error.reason not in ("unsupported", "not_video"):
            raise
        return _Look(member)
    frames_s = places = sound_s = None
    if isinstance(media, Video) and {"rgb", "flow"} & set(used):
        test = member.loaded.trained.recipe.test
        chosen = member.view.choose(media.num_frames, media.fps, torch.Generator().manual_seed(0))
        times = torch.from_numpy(media.times_s[chosen]).unflatten(0, (test.clips, -1))  # (clips, T)
        frames_s = times.repeat_interleave(test.crops, 0)  # (V, T)
        places = _places(member, media.height, media.width, len(chosen))
    if "audio" in used:
        sound_s = _sound_times(member, source)
    return _Look(member, batch, used, frames_s, sound_s, places=places)


def _places(member: Tagger, height: int, width: int, num_frames: int) -> Tensor:
    """Return (V, h, w, 2): the view of a picture whose pixels say where they are."""
    rows, columns = (2 * (torch.arange(size) + 0.5) / size - 1 for size in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    ramps = torch.stack([x, y]).expand(num_frames, -1, -1, -1)
    views, _ = member.view.render(ramps, torch.Generator())  # (V, T, 2, h, w)
    return views[:, 0].permute(0, 2, 3, 1)


def _sound_times(member: Tagger, source: FileSource) -> Tensor:
    """Return (V, N): the crops of a sound whose samples say when they are heard."""
    data, test = member.loaded.trained.recipe.data.audio, member.loaded.trained.recipe.test
    wave = source.waveform(data.rate_hz)
    assert wave is not None  # it was heard
    skipped = 0
    if data.trim_db is not None:
        loud = (wave.abs() >= 10 ** (data.trim_db / 20)).nonzero()
        skipped, wave = (int(loud[0]) if len(loud) else 0), trimmed(wave, data.trim_db)
    numbers = torch.arange(1, len(wave) + 1, dtype=torch.float64) + skipped  # 0 is padding
    crops = even_test_crops(numbers, data, test.clips).repeat_interleave(test.crops, 0)
    return torch.where(crops > 0, (crops - 1) / data.rate_hz, torch.nan)


def _edges(times_s: Iterable[Tensor], duration_s: float, num_parts: int) -> NDArray[np.float64]:
    """Return (K + 1,) edges of equal parts of all the time that is looked at."""
    first, last = np.inf, -np.inf
    for times in times_s:
        distinct = times.unique()
        half = float(distinct.diff().median()) / 2 if len(distinct) > 1 else duration_s / 2
        first, last = min(first, float(distinct[0]) - half), max(last, float(distinct[-1]) + half)
    end_s = max(duration_s, 0.0) or last
    first, last = max(0.0, first), min(last, end_s)
    return np.linspace(first, last if last > first else first + 1e-3, num_parts + 1)
