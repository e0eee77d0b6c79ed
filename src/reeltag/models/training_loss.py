"""What training minimises: the recipe's loss on a model's logits, unless the model has more outputs to train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeGuard, TypeVar

from torch import Tensor, nn

Loss = Callable[..., Tensor]
T = TypeVar("T")


class Kept(Generic[T]):
    """Outputs of the last forward in training mode, until the loss takes them; copies of a model start without."""

    def __init__(self) -> None:
        self._value: T | None = None

    def put(self, value: T | None) -> None:
        """Keep outputs in place of those before; None keeps nothing."""
        self._value = value

    def take(self) -> T:
        """Return the outputs and forget them; ValueError when there are none."""
        value, self._value = self._value, None
        if value is None:
            raise ValueError("training_loss belongs to a forward in training mode, once; there was none since the last")
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept[T]:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[()]]:
        return Kept, ()


class TrainsItself(ABC):
    """A model whose training loss reads more than its logits: branches, or the logits after every frame.

    `forward` in training mode keeps those outputs until `training_loss` takes them, so that forward remains the one
    call that wrappers for many devices see, and returns logits (B, L) like every model's.

    Attributes:
        own_loss: whether it does so with these options; else the recipe's loss on the logits is all.
    """

    own_loss: bool = True

    @abstractmethod
    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the scalar to minimise for the clips of the last forward.

        Args:
            logits: (B, L) that it returned.
            targets: (B, L).
            loss: the recipe's, from (logits, targets, ignore=) to a mean over clips.
            ignore: (B, L), true where the truth is unknown.

        Raises:
            ValueError: there was no forward in training mode since the last call.
        """


def has_own_loss(model: nn.Module) -> TypeGuard[TrainsItself]:
    """Return whether a model, without wrappers, trains by a rule of its own."""
    return isinstance(model, TrainsItself) and model.own_loss


def training_loss(
    model: nn.Module, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None
) -> Tensor:
    """Return the scalar to minimise: the model's own rule where it has one, else loss(logits, targets).

    Args:
        model: without the wrappers of distributed training.
        logits: (B, L), float32, of its forward.
        targets: (B, L).
        loss: the recipe's.
        ignore: (B, L), true where the truth is unknown.
    """
    if has_own_loss(model):
        return model.training_loss(logits, targets, loss, ignore=ignore)
    return loss(logits, targets, ignore=ignore)
