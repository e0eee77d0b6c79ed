"""Speed and claims that anybody can measure again: one script a file, registered by its name in `reeltag bench`."""

from __future__ import annotations

from typing import Any

import yaml

from reeltag.errors import RecipeError
from reeltag.registry import Registry

WITHOUT_DATA = ("decode", "features", "minimoments", "one_pass")
BENCHES: Registry[dict[str, Any]] = Registry("benchmark", "reeltag.bench")


def run_bench(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run a benchmark by name, or `all` that need no data; returns what it also prints and writes.

    Args:
        name: of `BENCHES`, or `all`.
        arguments: what it takes, each as `key=value`.

    Raises:
        UnknownName: no such benchmark.
        RecipeError: an argument it does not take, or one that is not key=value.
    """
    if name == "all":
        return {each: run_bench(each, arguments) for each in WITHOUT_DATA}
    options: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise RecipeError(f"{argument!r} is not key=value; for example rounds=15")
        options[key] = yaml.safe_load(value)
    BENCHES.check(name, options)
    return BENCHES.build(name, **options)
