"""A registry: from a name to what builds it, with close names in its errors and keys taken from signatures."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Generic, TypeVar

from reeltag.errors import RecipeError, UnknownName

T = TypeVar("T")
Builder = Callable[..., T]


def close_name(name: str, allowed: list[str]) -> str:
    """Return `Did you mean 'x'? ` for the nearest allowed name, or an empty string."""
    close = get_close_matches(name, allowed, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def plural(kind: str) -> str:
    """Return the word of `reeltag list` for a kind: losses, metrics."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


class Registry(Mapping[str, Builder[T]], Generic[T]):
    """Names of one kind of part; the modules of `package` are imported on first use and register themselves.

    A *family* is a prefix whose rest is free (`tsm_` + any backbone): its builder takes the rest as the keyword that it
    named. Iteration yields the plain names alone, sorted; families are listed by `families`.

    Args:
        kind: the word of messages and of `reeltag list KIND`.
        package: the dotted package whose modules hold the parts.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.families: dict[str, tuple[str, Builder[T]]] = {}
        self._package = package
        self._builders: dict[str, Builder[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Builder[T]], Builder[T]]:
        """Return a decorator that files its function or class under `name`; a second use of a name is a ValueError."""

        def add(builder: Builder[T]) -> Builder[T]:
            if name in self._builders:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._builders[name] = builder
            return builder

        return add

    def register_family(self, prefix: str, *, key: str) -> Callable[[Builder[T]], Builder[T]]:
        """Return a decorator for names that start with `prefix`; the rest of the name becomes the argument `key`."""

        def add(builder: Builder[T]) -> Builder[T]:
            if prefix in self.families:
                raise ValueError(f"{self.kind} family {prefix!r} is registered twice")
            self.families[prefix] = (key, builder)
            return builder

        return add

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)

    def __getitem__(self, name: str) -> Builder[T]:
        self._load()
        if name in self._builders:
            return self._builders[name]
        for prefix in sorted(self.families, key=len, reverse=True):
            if name.startswith(prefix) and len(name) > len(prefix):
                key, builder = self.families[prefix]
                return partial(builder, **{key: name[len(prefix) :]})
        hint = close_name(name, list(self._builders))
        raise UnknownName(
            f"No {self.kind} is called {name!r}. {hint}`reeltag list {plural(self.kind)}` shows all of them."
        )

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and bool(self[name])
        except UnknownName:
            return False

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._builders))

    def __len__(self) -> int:
        self._load()
        return len(self._builders)

    def matching(self, pattern: str = "*") -> list[str]:
        """Return the names that match a shell pattern, sorted."""
        return [name for name in self if fnmatchcase(name, pattern)]

    def schema(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the keyword options of a part by name: every parameter that has a default."""
        builder = self[name]
        fixed = set(builder.keywords) if isinstance(builder, partial) else set()
        parameters = inspect.signature(builder).parameters.values()
        return {p.name: p for p in parameters if p.default is not p.empty and p.name not in fixed}

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise RecipeError for an option that the part called `name` does not take."""
        allowed = self.schema(name)
        for key in options:
            if key not in allowed:
                raise RecipeError(
                    f"{self.kind} {name!r} has no option {key!r}. {close_name(key, list(allowed))}"
                    f"It takes {', '.join(sorted(allowed)) or 'no options'}."
                )

    def build(self, name: str, **options: Any) -> T:
        """Call the builder of `name` with `options`."""
        return self[name](**options)

    def bind(self, name: str, **options: Any) -> Callable[..., Any]:
        """Return the function called `name` with `options` fixed: losses and metrics are called on tensors."""
        self.check(name, options)
        return partial(self[name], **options) if options else self[name]
