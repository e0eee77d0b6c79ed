"""`reeltag convert`: published weights to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, print_json


def convert(
    file: Annotated[Path, typer.Argument(help="The checkpoint as its authors published it (.pth, .pt, .safetensors).")],
    source: Annotated[str, typer.Option(help="Where it comes from; `reeltag list sources` shows the names.")],
    name: Annotated[str, typer.Option(help="Our model, for example tsm_resnet50.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value of the bundle's recipe, such as data.stride=8.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="A shipped vocabulary (`reeltag list labels`) or a file, one label a line.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="A further file of the same weights: VGGish's principal components.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn published weights into a bundle that `reeltag tag`, `evaluate` and `train` take.

    Example: reeltag convert TSM_kinetics_RGB_resnet50_shift8.pth --source tsm --name tsm_resnet50 --out tsm-kinetics
    """
    from reeltag.hub.converted_bundle import convert_file

    trained, classifies = convert_file(
        file, out, source=source, name=name, labels=labels, overrides=overrides or [], also=also or []
    )
    facts = {
        "bundle": str(out),
        "model": trained.recipe.model.name,
        "options": trained.recipe.model.options,
        "num_labels": len(trained.label_names),
        "first_labels": trained.label_names[:3],
        "num_frames": trained.recipe.data.num_frames,
        "classifier": "published" if classifies else "drawn",
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        print(f"{key:12} {value}")
    print(f"try it: reeltag tag {out} VIDEO" if classifies else f"train it: model.pretrained={out} in a recipe")
