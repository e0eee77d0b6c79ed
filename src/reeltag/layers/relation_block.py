"""The relation-driven block: a small network says, for every place, how much each of its neighbours counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers import LAYERS
from reeltag.layers.nonlocal_block import NonLocalBlock

Places = tuple[int, int, int]
Form = Literal["printed", "attention"]


def _neighbours(padded: Tensor, size: Places, reach: Places) -> Iterator[Tensor]:
    """Yield (B, D, T, H, W) views of a padded map, one for each offset, in the order t, h, w."""
    for offset in itertools.product(*(range(2 * r + 1) for r in reach)):
        view = padded
        for axis, (start, length) in enumerate(zip(offset, size, strict=True), start=2):
            view = view.narrow(axis, start, length)
        yield view


@LAYERS.register("relation_block")
class RelationBlock(NonLocalBlock):
    """x + out(y), where y_i is the sum of r_i[j] g(x_j) over the neighbours j of i, and a small network gives r_i.

    Source: Qiniu's ActivityNet 2018 report, section 3, eq. 7. Its figure 3 is lost, so there are two forms. `printed`:
    r_i is what the network gives, as eq. 7 has it. `attention`: r_i is the softmax over the neighbours inside the clip
    of theta(x_i) . phi(x_j) plus the network's j-th value, whose last layer starts at zero: at first it is the masked
    non-local block of the same reach, which is what "by using mask non-local's initialization" asks for. The network is
    assumed to be one convolution over the receptive field, ReLU, and a 1x1x1 convolution.

    Args:
        channels: C.
        reach: (t1, h1, w1) of the neighbourhood, in places.
        field: (t0, h0, w0) of the network's receptive field, each above `reach`'s.
        inner: channels of theta, phi and g; half of C when None.
        hidden: channels of the network; an eighth of C when None.
        form: see above.
        scale: as for `NonLocalBlock`, in the `attention` form.
        norm: as for `NonLocalBlock`.

    Raises:
        ValueError: `field` is not above `reach` on every axis, or an unknown form.
    """

    def __init__(
        self,
        channels: int,
        *,
        reach: Places = (1, 1, 1),
        field: Places = (2, 2, 2),
        inner: int | None = None,
        hidden: int | None = None,
        form: Form = "attention",
        scale: bool = False,
        norm: bool = True,
    ) -> None:
        if form not in ("printed", "attention"):
            raise ValueError(f"form is 'printed' or 'attention', got {form!r}")
        if len(reach) != 3 or len(field) != 3 or not all(0 <= r < f for r, f in zip(reach, field, strict=True)):
            raise ValueError(f"the receptive field must be wider than the reach on every axis, got {field} and {reach}")
        pairing: Literal["embedded_gaussian"] = "embedded_gaussian"
        super().__init__(channels, inner=inner, pairing=pairing, scale=scale, pool="none", norm=norm)
        self.form: Form = form
        self.places: Places = (reach[0], reach[1], reach[2])
        width = hidden or max(1, channels // 8)
        count = math.prod(2 * r + 1 for r in self.places)
        kernel = (2 * field[0] + 1, 2 * field[1] + 1, 2 * field[2] + 1)
        self.relation = nn.Sequential(
            nn.Conv3d(channels, width, kernel, padding=(field[0], field[1], field[2])),
            nn.ReLU(),
            nn.Conv3d(width, count, 1),
        )
        if form == "printed":  # eq. 7 compares nothing
            del self.theta, self.phi
        else:
            for tensor in self.relation[2].parameters():
                nn.init.zeros_(tensor)

    def relations(self, x: Tensor) -> Tensor:
        """Return r (B, K, T, H, W), K the places of the neighbourhood."""
        given: Tensor = self.relation(x)
        if self.form == "printed":
            return given
        size: Places = x.shape[2:]  # type: ignore[assignment]
        theta, phi = self.theta(x) * self.scale, self._padded(self.phi(x))
        inside = self._padded(torch.ones_like(x[:1, :1]))
        scores = torch.stack([(theta * seen).sum(1) for seen in _neighbours(phi, size, self.places)], 1)
        outside = torch.cat([seen == 0 for seen in _neighbours(inside, size, self.places)], 1)
        return (scores + given).masked_fill(outside, -math.inf).softmax(1)

    def _padded(self, x: Tensor) -> Tensor:
        t, h, w = self.places
        return F.pad(x, (w, w, h, h, t, t))

    def attend(self, x: Tensor) -> Tensor:
        """Return y (B, inner, T, H, W)."""
        size: Places = x.shape[2:]  # type: ignore[assignment]
        relations, g = self.relations(x), self._padded(self.g(x))
        y = torch.zeros_like(g[:, :, : size[0], : size[1], : size[2]])
        for index, seen in enumerate(_neighbours(g, size, self.places)):
            y = y + relations[:, index : index + 1] * seen
        return y
