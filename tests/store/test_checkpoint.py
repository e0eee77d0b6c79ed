"""Checkpoints are whole or not there, and a changed byte is noticed."""

import pytest
import torch

from reeltag.errors import StoreError
from reeltag.store.atomic import atomic_path, write_atomic, write_json
from reeltag.store.checkpoint import (
    checkpoints_of,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


def save(folder, step, value=1.0):
    kernel = torch.full((2, 3, 3, 3), value).contiguous(memory_format=torch.channels_last)
    return save_checkpoint(folder, step, {"model": {"w": kernel, "tied": kernel}}, {"step": step})


def test_round_trip_is_exact(tmp_path):
    path = save(tmp_path, 7, value=0.1)
    tensors, state = load_checkpoint(path)
    assert state == {"step": 7}
    assert torch.equal(tensors["model"]["w"], torch.full((2, 3, 3, 3), 0.1))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("position", [0, 0.5, 0.999])
def test_one_flipped_bit_is_noticed_and_the_checkpoint_before_is_taken(tmp_path, name, position):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray((bad / name).read_bytes())
    data[int(position * len(data))] ^= 1
    (bad / name).write_bytes(data)
    with pytest.raises(StoreError, match="has changed since it was written"):
        load_checkpoint(bad)
    assert latest_checkpoint(tmp_path) == good


def test_a_missing_file_is_noticed(tmp_path):
    path = save(tmp_path, 1)
    (path / "model.safetensors").unlink()
    with pytest.raises(StoreError, match=r"lacks model.safetensors"):
        load_checkpoint(path)
    assert latest_checkpoint(tmp_path) is None


def test_prune_keeps_the_last_three_and_the_best(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step)
    (tmp_path / ".writing-abc").mkdir()  # left by a killed writer
    prune_checkpoints(tmp_path, keep=3, also=tmp_path / "step_00000002")
    assert [path.name[-1] for path in checkpoints_of(tmp_path)] == ["2", "5", "6", "7"]
    assert not list(tmp_path.glob(".writing-*"))


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant|Out of range"):
        write_json(target, float("nan"))
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
