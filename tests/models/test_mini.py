"""The small backbone at widths below its default."""

import subprocess
import sys

import torch
from torch.nn import functional as F

from reeltag.models.mini import StridedPointwise

NARROW = """
import torch
from reeltag.models.image2d import build_backbone
torch.set_num_threads(2)
net = build_backbone("mini", widths=(8, 16)).to(memory_format=torch.channels_last)
for _ in range(10):
    net.pool(net.forward_features(torch.randint(0, 256, (3, 3, 64, 101), dtype=torch.uint8))).sum().backward()
"""


def test_a_strided_pointwise_convolution_is_pytorchs():
    conv = StridedPointwise(5, 7, 1, 2, bias=False).double()
    x = torch.randn(3, 5, 9, 10, dtype=torch.float64, requires_grad=True)
    ours, theirs = conv(x), F.conv2d(x, conv.weight, stride=2)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    for own, other in zip(
        torch.autograd.grad((ours * weights).sum(), [x, conv.weight]),
        torch.autograd.grad((theirs * weights).sum(), [x, conv.weight]),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


def test_a_narrow_net_trains_on_an_odd_batch_on_two_threads():
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-500:]
