import os
from functools import partial

import pytest

from reeltag.data.workers import map_in_order


def double_or_die(number: int, *, deadly: int) -> int:
    if number == deadly:
        os._exit(3)
    return 2 * number


def test_results_come_in_order_from_this_process():
    function = partial(double_or_die, deadly=-1)
    assert list(map_in_order(function, range(20), workers=0, crashed=lambda item: -1)) == list(range(0, 40, 2))


@pytest.mark.slow
def test_a_crash_costs_one_item_and_no_other():
    function = partial(double_or_die, deadly=5)
    found = list(map_in_order(function, range(12), workers=2, crashed=lambda item: -item))
    assert found == [0, 2, 4, 6, 8, -5, 12, 14, 16, 18, 20, 22]
