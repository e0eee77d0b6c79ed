"""Where features come from: the network, its settings and their digests, kept beside every store and every model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reeltag.data.feature_coding import PCA_FILE, Coding, Pca
from reeltag.errors import StoreError
from reeltag.store.atomic import write_atomic, write_json

SOURCE_FILE = "features.json"
_FORMAT = "reeltag features 1"


@dataclass(frozen=True)
class FeatureSource:
    """What made the features of a store; equal sources make features that may be mixed.

    Attributes:
        extractor: what `inference.extractor` needs to do it again (name or path, sampling, sizes).
        weights_hash: SHA-256 of the network's weights.
        recipe_hash: SHA-256 of everything else that changes a feature: architecture, sampling, sizes, crops.
        feature_sizes: widths of the streams that lie side by side in a vector.
        pca_hash: SHA-256 of `pca.safetensors`, or None.
        quantized: stored as one byte a value.
    """

    extractor: dict[str, Any]
    weights_hash: str
    recipe_hash: str
    feature_sizes: tuple[int, ...]
    pca_hash: str | None = None
    quantized: bool = False

    @classmethod
    def read(cls, folder: Path) -> FeatureSource:
        """Read `features.json` of a store, run or bundle; StoreError when it is missing or damaged."""
        path = folder / SOURCE_FILE
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != _FORMAT:
                raise StoreError(f"{path} is of another version of reeltag; extract the features again")
            content["feature_sizes"] = tuple(int(size) for size in content["feature_sizes"])
            return cls(**content)
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist; `reeltag extract` writes folders of features") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError(f"{path} is damaged ({error}); extract the features again") from None

    def write(self, folder: Path) -> None:
        """Write `features.json` into a folder."""
        write_json(folder / SOURCE_FILE, {"format": _FORMAT, **asdict(self)})

    def coding(self, folder: Path) -> Coding:
        """Return the coding, with the PCA that lies in `folder`."""
        pca = None if self.pca_hash is None else Pca.load(folder, self.pca_hash)
        return Coding(pca, self.quantized)

    def coded(self, coding: Coding, pca_hash: str | None) -> FeatureSource:
        """Return the source of the same features after a coding; streams that a PCA has mixed become one."""
        width = coding.width(sum(self.feature_sizes))
        sizes = self.feature_sizes if coding.pca is None else (width,)
        return replace(self, feature_sizes=sizes, pca_hash=pca_hash, quantized=coding.quantized)

    def copy_to(self, here: Path, there: Path) -> None:
        """Write the source into `there`, with the PCA that lies `here`."""
        there.mkdir(parents=True, exist_ok=True)
        if self.pca_hash is not None:
            write_atomic(there / PCA_FILE, (here / PCA_FILE).read_bytes())
        self.write(there)

    def require_equal(self, other: FeatureSource, *, names: tuple[str, str], cure: str) -> None:
        """Check that features of two sources may be mixed.

        Raises:
            StoreError: they differ; the message names what differs with both values, `names` says who has which.
        """
        words = {
            "weights_hash": "weights",
            "recipe_hash": "settings of the extraction",
            "pca_hash": "PCA",
            "quantized": "storage",
            "feature_sizes": "widths",
        }
        for field, word in words.items():
            ours, theirs = _shown(getattr(self, field)), _shown(getattr(other, field))
            if ours != theirs:
                raise StoreError(
                    f"other {word}: {names[0]} has {ours} ({self.describe()}), {names[1]} has {theirs} "
                    f"({other.describe()}); {cure}"
                )

    def describe(self) -> str:
        """Return a few words: what made the features, and how."""
        made = self.extractor
        rate = f"{made['fps']:g} fps" if made.get("fps") else f"{made.get('num_frames')} a video"
        return f"{made.get('model')}, {made.get('level')}, {rate}"


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
