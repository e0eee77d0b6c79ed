"""Names to builders: close names, families, options from signatures."""

import pytest

from reeltag.errors import RecipeError, UnknownName
from reeltag.registry import Registry


@pytest.fixture
def parts() -> Registry[str]:
    registry: Registry[str] = Registry("loss", "reeltag.losses")
    registry._loaded = True  # this registry has no folder of its own

    @registry.register("focal")
    def focal(x: str, *, gamma: float = 2.0) -> str:
        return f"focal {x} {gamma}"

    @registry.register_family("tsn_", key="backbone")
    def tsn(*, backbone: str, dropout: float = 0.5) -> str:
        return f"tsn on {backbone} {dropout}"

    return registry


def test_unknown_name_suggests_the_nearest(parts):
    with pytest.raises(UnknownName, match=r"No loss is called 'fokal'. Did you mean 'focal'\? `reeltag list losses`"):
        parts["fokal"]


def test_family_takes_the_rest_of_the_name(parts):
    assert parts.build("tsn_resnet50", dropout=0.1) == "tsn on resnet50 0.1"
    assert "tsn_resnet50" in parts
    assert "tsn_" not in parts
    assert list(parts) == ["focal"]


def test_options_come_from_the_signature(parts):
    assert set(parts.schema("focal")) == {"gamma"}
    assert set(parts.schema("tsn_x")) == {"dropout"}
    with pytest.raises(RecipeError, match="has no option 'gama'. Did you mean 'gamma'"):
        parts.bind("focal", gama=1)
    assert parts.bind("focal", gamma=1.0)("x") == "focal x 1.0"


def test_a_name_is_registered_once(parts):
    with pytest.raises(ValueError, match="registered twice"):
        parts.register("focal")(lambda: "")
