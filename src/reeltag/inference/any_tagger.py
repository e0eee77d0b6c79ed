"""What a call tags with: a run, a bundle or an ensemble by name, and the facts that decide its tags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.predict import Tagger

AnyTagger: TypeAlias = Tagger | EnsembleTagger


@dataclass(frozen=True)
class TaggerCall:
    """A model by name, as `reeltag tag` takes it; it crosses process borders.

    Attributes:
        model: a run folder, a bundle, or the JSON file of an ensemble.
        checkpoint: `last` or `best`, for run folders.
        extractor: for models on stored features, where the model that makes them lies now.
    """

    model: str
    checkpoint: str = "last"
    extractor: str | None = None

    def load(self, device: str) -> AnyTagger:
        """Load it onto a torch device, or `auto`.

        Raises:
            StoreError: nothing there, or something that does not fit or is damaged.
        """
        kind = EnsembleTagger.from_file if self.model.endswith(".json") else Tagger.from_pretrained
        return kind(self.model, device=device, checkpoint=self.checkpoint, extractor=self.extractor)

    def absolute(self) -> TaggerCall:
        """Return the same for a process in another folder; names that are no paths stay as they are."""
        extractor = self.extractor
        if extractor is not None and Path(extractor).exists():
            extractor = str(Path(extractor).absolute())
        return replace(self, model=str(Path(self.model).absolute()), extractor=extractor)


def facts_of(tagger: AnyTagger) -> dict[str, str]:
    """Return what decides the tags of a tagger, as digests: weights, recipe, calibration and, of several, ensemble."""
    if isinstance(tagger, Tagger):
        trained = tagger.loaded.trained
        calibration = "" if tagger.calibration is None else tagger.calibration.model_dump_json()
        return {"weights": trained.weights_hash, "recipe": trained.recipe.hash, "calibration": _digest(calibration)}
    members = [facts_of(member) for member in tagger.taggers]
    return {
        "weights": _digest(" ".join(member["weights"] for member in members)),
        "recipe": _digest(" ".join(member["recipe"] for member in members)),
        "ensemble": _digest(tagger.ensemble.model_dump_json()),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
