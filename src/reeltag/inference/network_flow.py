"""Optical flow by a network, as a function that may travel to other processes and loads its weights there once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hardware import resolve_device
from reeltag.hub.published import read_published
from reeltag.models.adapters.raft import Raft, published_weights, raft
from reeltag.store.atomic import sha256_of

Downloaded = Literal["raft_small", "raft_large"]


class NetworkFlow:
    """RAFT on a device: a `FlowFunction` of `reeltag.media.flow`. What is sent to a process is where the weights lie.

    Args:
        weights: the file of torchvision's weights; or `raft_small` or `raft_large`, which downloads them unless they
            are in torch's cache.
        device: a torch device, or `auto`.

    Attributes:
        digest: SHA-256 of the file, or the name of what was downloaded.

    Raises:
        StoreError: no such file, or one that holds other weights.
    """

    def __init__(self, weights: str | Path, device: str = "auto") -> None:
        self._weights, self._device = weights, device
        self._net: Raft | None = self._loaded()  # at once, so that what is wrong is told before any work
        path = Path(weights)
        self.digest = sha256_of(path) if path.is_file() else str(weights)

    def _loaded(self) -> Raft:
        device = resolve_device(self._device)
        path = Path(self._weights)
        if path.is_file():
            found = read_published(path)
        elif str(self._weights) in get_args(Downloaded):
            found = published_weights(cast(Downloaded, str(self._weights)))
        else:
            raise StoreError(
                f"{self._weights} is not a file; give the weights that torchvision publishes for raft_small or "
                "raft_large (.pth), or one of these two names to download them"
            )
        try:
            return raft(found).to(device)
        except ValueError as error:
            raise StoreError(f"{self._weights}: {error}") from None

    @torch.inference_mode()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return float32 (P, 2, H, W) on the device, of frames uint8 (P, 3, H, W) and those they lead to."""
        if self._net is None:
            self._net = self._loaded()
        device = next(self._net.parameters()).device
        flow: Tensor = self._net(first.to(device), second.to(device))
        return flow

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_net": None}
