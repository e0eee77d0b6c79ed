"""What the processes of one run tell each other."""

import os

import pytest
import torch

from reeltag.errors import StoreError
from reeltag.processes import ALONE, Processes, current, join


def test_one_process_needs_no_partner():
    with join("cpu") as processes:
        assert processes == ALONE == current()
    assert ALONE.counts(3, 4) == [[3, 4]]
    assert ALONE.any(True, False) == [True, False]
    assert ALONE.objects("x") == ALONE.to_main("x") == ["x"]
    assert ALONE.from_main(lambda: 5) == 5
    assert ALONE.rows_of_all(torch.arange(3), [2])[0].tolist() == [0, 1]


def test_shares_are_neighbours_and_cover_everything_once():
    for count in (0, 1, 7, 12):
        for world in (1, 2, 5):
            parts = [list(Processes(rank, world).share(range(count))) for rank in range(world)]
            assert [item for part in parts for item in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def exchange():
    with join("cpu") as me:
        own = torch.full((me.rank, 2), float(me.rank), requires_grad=True)  # 0, 1 and 2 rows
        model = torch.nn.BatchNorm1d(2)
        model.running_mean.fill_(me.rank + 1)
        me.same_buffers(model)
        return {
            "again": join("cpu").__enter__() == me,
            "counts": me.counts(me.rank, 10 * me.rank),
            "any": me.any(me.rank == 2, False),
            "objects": me.objects({"rank": me.rank}),
            "to_main": me.to_main(me.rank),
            "from_main": me.from_main(lambda: os.environ["RANK"]),
            "rows": [part.tolist() for part in me.rows_of_all(own, [0, 1, 2])],
            "mean": model.running_mean.tolist(),
        }


def test_three_processes_exchange(together):
    for rank, found in enumerate(together(3, exchange)):
        assert found == {
            "again": True,
            "counts": [[0, 0], [1, 10], [2, 20]],
            "any": [True, False],
            "objects": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "to_main": [0, 1, 2] if rank == 0 else [],
            "from_main": "0",
            "rows": [[], [[1.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]]],
            "mean": [1.0, 1.0],
        }


def fail_on_main():
    def refuse():
        raise StoreError("the folder is full")

    with join("cpu") as me:
        with pytest.raises(StoreError, match="the folder is full"):
            me.from_main(refuse)
        return me.rank


def test_what_the_main_process_cannot_do_fails_everywhere(together):
    assert together(2, fail_on_main) == [0, 1]
