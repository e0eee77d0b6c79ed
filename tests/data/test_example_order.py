"""The order of examples: complete, shuffled, and the same from any batch on."""

import pytest

from reeltag.data.example_order import EpochOrder, mix


def batches(order, epoch, start=0):
    order.set_position(epoch, start)
    return list(order)


def test_an_epoch_visits_every_row_once_and_epochs_differ():
    order = EpochOrder(list(range(100, 110)), 3, seed=5, drop_last=False)
    first, second = batches(order, 0), batches(order, 1)
    assert sorted(row for batch in first for _, row, _ in batch) == list(range(100, 110))
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert [row for b in first for _, row, _ in b] != [row for b in second for _, row, _ in b]
    assert {epoch for b in second for epoch, _, _ in b} == {1}


def test_any_batch_can_be_returned_to():
    order = EpochOrder(list(range(50)), 4, seed=1)
    assert batches(order, 3, start=7) == batches(order, 3)[7:]
    assert len(batches(order, 3)) == order.num_batches == 12
    with pytest.raises(ValueError, match=r"start must be in 0..12"):
        order.set_position(0, 13)


def test_processes_share_an_epoch_without_overlap():
    whole = batches(EpochOrder(list(range(23)), 5, seed=2, drop_last=False), 0)
    for world in (2, 3, 5):  # whose batches are the same, in parts that differ by a clip at most
        orders = [
            EpochOrder(list(range(23)), 5, seed=2, rank=rank, world=world, drop_last=False) for rank in range(world)
        ]
        parts = [batches(order, 0) for order in orders]
        assert [[key for part in batch for key in part] for batch in zip(*parts, strict=True)] == whole
        sizes = [[len(part) for part in batch] for batch in zip(*parts, strict=True)]
        assert all(max(batch) - min(batch) <= 1 for batch in sizes)
    assert [len(part) for part in parts[0]] == [1, 1, 1, 1, 0]  # 3 clips left for 5 processes: an empty part


def test_a_set_smaller_than_a_batch_is_one_batch():
    order = EpochOrder([1, 2], 16, seed=0)
    assert sorted(row for _, row, _ in batches(order, 0)[0]) == [1, 2]
    with pytest.raises(ValueError, match="no row"):
        EpochOrder([], 2, seed=0)


def test_mix_spreads():
    seeds = {mix(seed, epoch, row) for seed in range(8) for epoch in range(8) for row in range(64)}
    assert len(seeds) == 8 * 8 * 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(1, 2) != mix(2, 1)


def test_weights_say_how_often_a_row_is_drawn():
    order = EpochOrder([7, 8, 9], 1, seed=4, weights=[4.0, 1.0, 1.0])
    counts = {7: 0, 8: 0, 9: 0}
    for epoch in range(60):
        rows = [row for batch in batches(order, epoch) for _, row, _ in batch]
        assert len(rows) == 3
        assert rows.count(7) == 2  # 3 rows an epoch, of which 4/6 are this one
        for row in rows:
            counts[row] += 1
        copies = sorted(copy for batch in batches(order, epoch) for _, row, copy in batch if row == 7)
        assert copies == [0, 1]  # so that the two draws are not the same picture
    assert counts[7] == 120
    assert counts[8] + counts[9] == 60
    assert 15 < counts[8] < 45
    with pytest.raises(ValueError, match="need 3 weights"):
        EpochOrder([7, 8, 9], 1, seed=4, weights=[0.0, 0.0, 0.0])
