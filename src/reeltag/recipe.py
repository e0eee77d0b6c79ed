"""Recipes: YAML plus `key=value` overrides become frozen, typed sections with a content hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from reeltag.errors import RecipeError, UnknownName
from reeltag.registry import close_name
from reeltag.schema import MODALITIES, Modality
from reeltag.sections import AudioSection, FlowSection, MixSection, Probability, Section, TrainSection

MAX_RECIPE_BYTES = 1 << 18
Pixels = Annotated[int, Field(ge=1, le=4096)]


class SourceSection(Section):
    """Where the numbers of a recipe come from; it changes no result and is not part of the hash."""

    paper: str = ""
    row: str = ""
    reported: dict[str, float | None] = Field(default_factory=dict)
    assumed: list[str] = Field(default_factory=list)


class StageSection(Section):
    """From which epoch on training clips have another size: small ones first buy more clips a minute.

    The short sides scale with the crop. Source: progressive resizing as in Tan, Le. EfficientNetV2, arXiv:2104.00298,
    section 4.2.
    """

    from_epoch: Annotated[float, Field(ge=0)]
    crop_px: Pixels
    num_frames: Annotated[int, Field(ge=1, le=4096)]


class DataSection(Section):
    """What a training clip holds and how it is cropped and varied. Lengths in pixels, times in frames.

    `modalities` is what the model takes when it is not given.
    """

    labels: str | None = None
    modalities: Annotated[list[Modality], Field(min_length=1)] | None = None
    num_frames: Annotated[int, Field(ge=1, le=4096)] = 8
    sampling: Literal["segments", "dense", "uniform"] = "segments"
    stride: Annotated[int, Field(ge=1)] = 1
    fps: Annotated[float, Field(gt=0)] | None = None
    short_side_px: Pixels = 256
    short_side_max_px: Pixels | None = None
    keep_aspect: bool = True
    crop: Literal["none", "center", "random", "resized", "multi_scale_corners", "random_short_side"] = "random"
    crop_px: Pixels = 224
    crop_scale: tuple[Probability, Probability] = (0.08, 1.0)
    flip: bool = False
    flip_vertical: bool = False
    flip_time: bool = False
    swap_labels: dict[Literal["horizontal", "vertical", "time"], list[tuple[str, str]]] = Field(default_factory=dict)
    channel_permutation: Probability = 0.0
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    balance_labels: list[str] = Field(default_factory=list)
    sample: Literal["each_once", "class_balanced", "repeat_factor"] = "each_once"
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 0.1
    mix: MixSection | None = None
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    audio: AudioSection = Field(default_factory=AudioSection)
    flow: FlowSection = Field(default_factory=FlowSection)
    stages: list[StageSection] = Field(default_factory=list)
    max_bad: Probability = 0.1

    @model_validator(mode="after")
    def _consistent(self) -> DataSection:
        if self.crop == "random_short_side" and self.short_side_max_px is None:
            raise ValueError("crop: random_short_side needs short_side_max_px, the largest short side to draw")
        if self.crop not in ("none", "resized", "multi_scale_corners") and self.crop_px > self.short_side_px:
            raise ValueError(f"crop_px {self.crop_px} is larger than short_side_px {self.short_side_px}")
        if self.balance_labels and self.sample != "each_once":
            raise ValueError(f"balance_labels and sample: {self.sample} both say how often a clip is drawn; keep one")
        if self.mix is not None and self.crop == "none":
            raise ValueError("mix needs clips of one size, and crop: none keeps each video's own; choose a crop")
        if self.modalities is not None and self.modalities != [m for m in MODALITIES if m in self.modalities]:
            raise ValueError(f"modalities {self.modalities} must be in the order {list(MODALITIES)}, each once")
        starts = [stage.from_epoch for stage in self.stages]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise ValueError(f"stages must begin at from_epoch 0 and rise, got {starts}")
        return self

    @property
    def motion(self) -> FlowSection:
        """The section `flow` with its `short_side_px`, in whose pixels vectors are measured."""
        if self.flow.short_side_px is not None:
            return self.flow
        return self.flow.model_copy(update={"short_side_px": self.short_side_px})

    def at_epoch(self, epoch: int) -> DataSection:
        """Return the section with the sizes of the stage that `epoch` lies in."""
        stage = next((stage for stage in reversed(self.stages) if stage.from_epoch <= epoch), None)
        if stage is None:
            return self
        scale = stage.crop_px / self.crop_px
        largest = self.short_side_max_px
        return self.model_copy(
            update={
                "crop_px": stage.crop_px,
                "num_frames": stage.num_frames,
                "short_side_px": round(self.short_side_px * scale),
                "short_side_max_px": None if largest is None else round(largest * scale),
                "flow": self.motion,  # whatever the size of the clip, a vector means the same
                "stages": [],
            }
        )


class _OpenSection(Section):
    """A section whose further keys are the options of the part it names; `build.check` knows them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beyond those that every part of the kind has."""
        return dict(self.model_extra or {})


class ModelSection(_OpenSection):
    """The model's registered name, its starting weights and its own options."""

    pretrained: str | bool | None = None


class LossSection(_OpenSection):
    """The loss's registered name and its own options; how labels are weighted, and thresholds learned beside scores.

    `label_weights` is a function of N_l, the training clips that carry label l (`reeltag.losses.label_weights`), for
    present and absent labels alike or, with `weigh: present`, for present ones alone. `thresholds` adds a head whose
    output is trained by `threshold_weight` times `lsep_threshold` (`reeltag.models.thresholded`).
    """

    name: str = "bce"
    label_weights: Literal["none", "count", "root_count", "inverse_count", "inverse_root_count"] = "none"
    weigh: Literal["labels", "present"] = "labels"
    thresholds: Literal["none", "clip", "label"] = "none"
    threshold_weight: Annotated[float, Field(gt=0)] = 1.0


class TestSection(Section):
    """Which views of a video are scored, how logits become probabilities and how views are averaged.

    `sigmoid` scores each label for itself. `softmax` shares 1 among the labels: for networks of one label a clip, whose
    logits mean nothing one by one.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    clips: Annotated[int, Field(ge=1, le=100)] = 1
    crops: Literal[1, 3] = 1
    crop_px: Pixels | None = None
    short_side_px: Pixels | None = None
    average: Literal["logits", "probabilities"] = "probabilities"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"


class Recipe(Section):
    """Everything that changes a result. `hash` names it; flags only say where and on what device."""

    source: SourceSection = Field(default_factory=SourceSection)
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection = Field(default_factory=TrainSection)
    test: TestSection = Field(default_factory=TestSection)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.loss.thresholds != "none" and self.test.activation == "softmax":
            raise ValueError(
                "loss.thresholds puts each label's decision at a sigmoid of 1/2; keep test.activation: sigmoid"
            )
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted JSON of every section but `source`."""
        content = self.model_dump(mode="json", exclude={"source"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with dotted keys changed: `recipe.replace(**{"train.seed": 1})`."""
        return _validate(_apply(self.model_dump(mode="json"), changes), "the changed recipe")


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (they make bombs) and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise RecipeError("YAML aliases (*name) are not allowed in a recipe; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise RecipeError(f"the key {', '.join(sorted(twice))} stands twice in one section; keep one")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def parse_yaml(text: str, name: str) -> Any:
    """Parse one YAML document by the strict rules of recipes; `name` is for the error message."""
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{name} has {len(text)} characters; a recipe has at most {MAX_RECIPE_BYTES}")
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        first = str(error).replace("\n", " ")
        raise RecipeError(f"{name} is not valid YAML: {first}") from None
    except RecursionError:
        raise RecipeError(f"{name} is nested too deeply; a recipe has two levels") from None


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes, sorted, as `demo/tsm_mini`."""
    root = Path(str(files("reeltag") / "recipes"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or by the name of a shipped one."""
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"no recipe file {name}; `reeltag list recipes` shows the shipped ones")
    shipped = list_recipes()
    if name in shipped:
        return Path(str(files("reeltag") / "recipes" / f"{name}.yaml"))
    by_last = [full for full in shipped if full.split("/")[-1] == name]
    if len(by_last) == 1:
        return find_recipe(by_last[0])
    raise UnknownName(
        f"No recipe is called {name!r}. {close_name(name, shipped)}`reeltag list recipes` shows all of them."
    )


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by path or shipped name and apply overrides of the form `section.key=value`.

    Raises:
        RecipeError: not YAML, an unknown key (with the nearest name), a value outside its range, a bad override.
        UnknownName: no such file and no shipped recipe of that name.
    """
    path = find_recipe(str(name))
    content = parse_yaml(path.read_text(encoding="utf-8"), str(name))
    if not isinstance(content, dict):
        raise RecipeError(f"{name} holds {type(content).__name__}; a recipe is a mapping with a `model` section")
    return recipe_with(content, overrides, str(name))


def recipe_with(content: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    """Return the recipe of a mapping with overrides applied; `name` is for the error message. Raises RecipeError."""
    return _validate(_apply(content, dict(map(_split_override, overrides))), name)


def _split_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"{text!r} is not an override; write section.key=value, for example train.lr=0.02")
    return key, parse_yaml(value, text)


def _apply(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = json.loads(json.dumps(content))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            if not isinstance(place[section], dict):
                raise RecipeError(f"{key}: {section!r} holds a value, not a section")
            place = place[section]
        place[last] = value
    result: dict[str, Any] = changed
    return result


def _validate(content: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(item, name) for item in error.errors())) from None


def _explain(item: Any, name: str) -> str:
    where = [str(part) for part in item["loc"]]
    key = ".".join(where)
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(item["loc"][:-1])
        return f"{name}: unknown key {key!r}. {close_name(where[-1], allowed)}Allowed here: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{name}: the key {key!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if isinstance(item["input"], dict) else f", not {item['input']!r}"
    return ": ".join(filter(None, (name, key, f"{message}{given}")))


def _keys_at(place: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at a place, also inside an optional section or a list of sections."""
    section: Any = Recipe
    for part in place:
        if isinstance(part, int):
            continue
        inner = section.model_fields[part].annotation
        section = next((kind for kind in (inner, *get_args(inner)) if hasattr(kind, "model_fields")), Recipe)
    return list(section.model_fields)
