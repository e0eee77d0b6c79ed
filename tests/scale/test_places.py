"""How many workers fit where: counted by hand."""

import pytest

from reeltag.errors import ReeltagError
from reeltag.scale.places import Places, find_places

LAPTOP = [{"CPU": 2.0}]
TWO_SERVERS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 7.0}]


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "gpus", "expected"),
    [
        (LAPTOP, "auto", None, None, Places(1, 2.0, 0)),
        (LAPTOP, "auto", 2, None, Places(2, 1.0, 0)),
        (LAPTOP, "cpu", 3, None, Places(3, 0.5, 0)),
        (TWO_SERVERS, "auto", None, None, Places(4, 1.0, 1)),
        (TWO_SERVERS, "auto", None, 0.5, Places(8, 1.0, 0.5)),
        (TWO_SERVERS, "cuda", None, 3, Places(1, 1.0, 3)),
        (TWO_SERVERS, "cpu", None, None, Places(11, 2.0, 0)),  # 8 and 3: the seventh core is left over
        (TWO_SERVERS, "auto", None, 0, Places(11, 2.0, 0)),
        (TWO_SERVERS, "cpu", 12, None, Places(12, 1.0, 0)),
    ],
)
def test_workers_get_what_there_is(nodes, device, workers, gpus, expected):
    assert find_places(nodes, device, workers, gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "gpus", "message"),
    [
        (LAPTOP, "auto", 17, None, "no room for 17 workers: ray sees 2 cores and 0 GPUs on 1 machines"),
        (TWO_SERVERS, "cuda", 5, None, "no room for 5 workers of 1 GPUs each"),
        (LAPTOP, "cuda", None, None, "no room for 1 workers of 1 GPUs each"),
        (LAPTOP, "cuda:1", None, None, "--device 'cuda:1' with --engine ray"),
        (LAPTOP, "auto", 0, None, "--workers 0 must be 1 or more"),
        (LAPTOP, "auto", None, 1.5, "--gpus-per-worker 1.5 must be a whole number"),
        (LAPTOP, "auto", None, float("nan"), "--gpus-per-worker nan must be"),
        (TWO_SERVERS, "cpu", None, 1, "contradicts --device cpu"),
        (TWO_SERVERS, "cuda", None, 0, "contradicts --device cuda"),
    ],
)
def test_what_does_not_fit_is_one_line(nodes, device, workers, gpus, message):
    with pytest.raises(ReeltagError, match=r"^[^\n]*$") as caught:
        find_places(nodes, device, workers, gpus)
    assert message in str(caught.value)
