"""Published outputs under drawn weights: how the weights and inputs of a record are drawn again, and compared."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

RECORDS = Path(__file__).parent / "records"


def _generator(text):
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


class VisualRecord:
    """One record: `weights()` as published, `clip()` as our models take it, `agree()` to compare."""

    def __init__(self, name):
        self.data = json.loads((RECORDS / f"{name}.json").read_text())
        self.peer = self.data["peer"]
        self.cases = self.data["cases"]

    def weights(self):
        gain = self.data.get("gain", 1.0)
        return {entry[0]: self._draw(entry, gain) for entry in self.data["state_dict"]}

    def _draw(self, entry, gain):
        key, shape = entry[0], tuple(entry[1])
        if len(entry) > 2:  # integers: batch counters
            return torch.zeros(shape, dtype=torch.int64)
        if not shape:
            return torch.ones(())
        rng, last = _generator(key), key.rsplit(".", 1)[-1]
        if last == "running_mean" or (len(shape) == 1 and last == "bias"):
            return 0.1 * torch.randn(shape, generator=rng)
        if last == "running_var" or len(shape) == 1:
            return 0.5 + torch.rand(shape, generator=rng)
        return torch.randn(shape, generator=rng) * math.sqrt(gain / math.prod(shape[1:]))

    def inputs(self, case=0):
        """The drawn inputs of a case, in the peer's own layout."""
        return [
            torch.randn(tuple(i["shape"]), generator=_generator("input:" + i["input_name"]))
            for i in self.cases[case]["inputs"]
            if "shape" in i  # the slow path's clip is derived from the fast path's
        ]

    def clip(self, case=0, num_frames=None):
        """The first input as (B, T, C, H, W): from N,C,T,H,W, or from N,(T*C),H,W given `num_frames`."""
        x = self.inputs(case)[0]
        if x.ndim == 5:
            layout = self.cases[case]["inputs"][0].get("layout", "NCTHW").replace(",", "")
            return x if layout.startswith("NT") else x.transpose(1, 2)
        return x.unflatten(1, (num_frames, -1)) if num_frames else x.unsqueeze(1)

    def agree(self, ours, case=0, tolerance=1e-4, output=None):
        """Assert max |difference| <= tolerance x the record's standard deviation, on the values that it holds."""
        theirs = output or self.cases[case]["output"]
        theirs = theirs.get("out", theirs)
        ours = ours.detach().double()
        assert list(ours.shape) == theirs["shape"], f"ours {tuple(ours.shape)}, theirs {theirs['shape']}"
        flat, bound = ours.flatten(), tolerance * theirs["std"]
        pairs = {"values": flat, "first": flat, "last": flat}
        seen = 0
        for field, own in pairs.items():
            if field in theirs:
                values = torch.tensor(theirs[field], dtype=torch.float64).flatten()
                own = own[-len(values) :] if field == "last" else own[: len(values)]
                worst = (own - values).abs().max().item()
                assert worst <= bound, f"{field}: {worst:.3g} apart, allowed {bound:.3g}"
                seen += len(values)
        assert seen >= min(8, flat.numel())
        # Sums catch what the kept values do not show.
        assert abs(flat.mean().item() - theirs["mean"]) <= bound
        assert abs(flat.std(unbiased=False).item() - theirs["std"]) <= 1e-3 * theirs["std"]


@pytest.fixture
def visual_record():
    return VisualRecord
