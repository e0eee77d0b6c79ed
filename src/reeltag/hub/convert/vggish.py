"""VGGish as ported by harritaylor/torchvggish: the network, and the principal components of its post-processing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import rename

_LAYER = "vggish_postprocess"


@SOURCES.register("vggish")
def vggish(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert `features.*` and `embeddings.*`, `pca_eigen_vectors` and `pca_means`, or all of them in one mapping.

    The published network has no classifier: `frames` stays as drawn. With the components the model reads them in 8 bits
    rounded to the nearest, as the port gives them out; `postprocess` of the caller goes before that.
    """
    renamed = rename(tensors, [(r"^(vggish|pproc)\.", ""), (r"^(features|embeddings)\.", r"net.\1.")])
    components = {key: value for key, value in renamed.items() if key.startswith("pca_")}
    if name == _LAYER:
        return Converted(components)
    network = {key: value for key, value in renamed.items() if key not in components}
    if not components:
        return Converted(network, drawn=("frames.",))
    whole = network | {f"pproc.{key}": value for key, value in components.items()}
    return Converted(whole, {"postprocess": "nearest"}, drawn=("frames.",))
