import os
import signal
import subprocess
import sys
import time
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


WATCHED = """
import os, sys, time
from reeltag.data.workers import map_in_order

def work(number):
    return os.getpid() if number < 2 else time.sleep(600)

if __name__ == "__main__":
    for pid in map_in_order(work, range(9), workers=1, crashed=lambda number: 0):
        print(pid, flush=True)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    with subprocess.Popen([sys.executable, str(tmp_path / "watched.py")], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it is there, at work for ten minutes
        parent.kill()
        parent.wait()
        for _ in range(100):
            time.sleep(0.1)
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                return
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived its parent by ten seconds")
