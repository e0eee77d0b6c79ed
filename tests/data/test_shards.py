import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.data.shard_file import ShardWriter, npy_header, scan_shard
from reeltag.data.shards import PackedVideos, join_jpegs, split_jpegs
from reeltag.errors import StoreError


@pytest.fixture(scope="module")
def packs(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("packs")
    make_video(folder / "a.mp4", num_frames=6)
    make_video(folder / "b.mp4", num_frames=6, seed=1)
    manifest = Manifest.build(["a.mp4", "b.mp4"], [[0], [1]], ["x", "y"], root=folder)
    for store in ("raw", "jpeg"):
        pack(manifest, folder / store, store=store, short_side_px=32, workers=0)
    return folder


@pytest.fixture(params=["raw", "jpeg"])
def folder(packs, request, tmp_path):
    return shutil.copytree(packs / request.param, tmp_path / "pack")


def tar_of(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, data, kind, link in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            archive.addfile(info, io.BytesIO(data))
    return path


def test_writer_makes_a_tar_that_others_read(tmp_path):
    with (tmp_path / "s.tar").open("wb") as file:
        writer = ShardWriter(file)
        offsets = [writer.add("a.json", b"{}"), writer.add("b.bin", bytes(range(256)) * 3)]
        writer.finish()
    with tarfile.open(tmp_path / "s.tar") as archive:
        assert archive.extractfile("b.bin").read() == bytes(range(256)) * 3
    assert [member.offset for member in scan_shard(tmp_path / "s.tar")] == offsets == [512, 1536]


def test_npy_header_is_that_of_numpy():
    for array in (np.zeros((3, 4, 5, 3), np.uint8), np.zeros(7, "<i2"), np.zeros((123456, 1), np.uint8)):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version=(1, 0))
        header = npy_header(array.shape, array.dtype)
        assert len(header) % 64 == 0
        assert np.array_equal(np.load(io.BytesIO(header + array.tobytes())), array)


def test_jpeg_table_round_trip_and_lies():
    member = join_jpegs([b"one", b"", b"three"])
    assert [bytes(part) for part in split_jpegs(memoryview(member))] == [b"one", b"", b"three"]
    for wrong in (
        b"RIFF" + member[4:],
        member[:8] + struct.pack("<I", 2**31) + member[12:],
        member[:-1],
        member[:12] + struct.pack("<Q", 0) + member[20:],
        member[:20] + struct.pack("<Q", 2**40) + member[28:],
    ):
        with pytest.raises(ValueError, match="JPEG"):
            split_jpegs(memoryview(wrong))


def test_a_flipped_bit_is_found_by_verify(folder):
    shard = folder / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    PackedVideos(folder).verify()
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-000000.tar: SHA-256 .* pack it again"):
        PackedVideos(folder).verify()


def test_truncated_and_missing_shards_are_named(folder):
    shard = folder / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-700])
    with pytest.raises(StoreError, match=r"shard-000000.tar: \d+ bytes where \d+ were written"):
        PackedVideos(folder)
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-000000.tar: this shard is missing"):
        PackedVideos(folder)


def test_damaged_frames_are_an_error_that_names_shard_and_clip(folder):
    packed = PackedVideos(folder)
    start = packed._columns["frames_offset"][1]
    shard = folder / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[start + 6 : start + 400] = bytes(394)
    shard.write_bytes(data)
    packed = PackedVideos(folder)
    assert packed.frames(0, [0]).shape == (1, 3, 32, 48)
    with pytest.raises(StoreError, match=r"shard-000000.tar: clip 'b' is damaged"):
        packed.frames(1, [0])


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", -1), ("offset", 1 << 50), ("size", 1 << 60), ("frames_offset", 0), ("frames_bytes", 1 << 40),
     ("shard", "x.tar"), ("audio_samples", 1 << 40)],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_refused(folder, column, value):
    table = pq.read_table(folder / "manifest.parquet").to_pydict()
    table[column][1] = value
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    with pytest.raises(StoreError, match=r"points outside the shard|which shards.json lacks"):
        PackedVideos(folder)


@pytest.mark.parametrize("name", ["../../evil.tar", "/etc/passwd", "shard-1.tar"])
def test_shard_names_that_packing_does_not_write_are_refused(folder, name):
    description = json.loads((folder / "shards.json").read_text())
    description["shards"][0]["name"] = name
    (folder / "shards.json").write_text(json.dumps(description))
    with pytest.raises(StoreError, match="pack it again"):
        PackedVideos(folder)


def test_frames_out_of_range_are_a_value_error(folder):
    packed = PackedVideos(folder)
    for indices in ([6], [-1], []):
        with pytest.raises(ValueError, match=r"give numbers in \[0, 6\)"):
            packed.frames(0, indices)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../x.txt", b"x", tarfile.REGTYPE, "")], "leaves the folder"),
        ([("ok/../../x.txt", b"x", tarfile.REGTYPE, "")], "leaves the folder"),
        ([("/tmp/x.txt", b"x", tarfile.REGTYPE, "")], "leaves the folder"),
        ([("..\\x.txt", b"x", tarfile.REGTYPE, "")], "leaves the folder"),
        ([("a.mp4", b"", tarfile.SYMTYPE, "/etc/passwd")], "no plain file"),
        ([("a.mp4", b"", tarfile.LNKTYPE, "../../etc/passwd")], "no plain file"),
        ([("a.mp4", b"", tarfile.FIFOTYPE, "")], "no plain file"),
        ([("a.mp4", b"", tarfile.CHRTYPE, "")], "no plain file"),
        ([("a.mp4", b"1", tarfile.REGTYPE, ""), ("a.mp4", b"2", tarfile.REGTYPE, "")], "occurs twice"),
        ([], "no samples"),
    ],
)  # fmt: skip
def test_hostile_members_are_refused(tmp_path, members, message):
    with pytest.raises(StoreError, match=message):
        scan_shard(tar_of(tmp_path / "s.tar", *members))


def test_sizes_that_lie_are_refused(tmp_path):
    info = tarfile.TarInfo("a.mp4")
    info.size = 8 << 40
    (tmp_path / "s.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(StoreError, match="truncated or lies"):
        scan_shard(tmp_path / "s.tar")
    (tmp_path / "t.tar").write_bytes(b"<html>no</html>" * 100)
    with pytest.raises(StoreError, match="not a plain tar"):
        scan_shard(tmp_path / "t.tar")


@pytest.mark.slow
def test_no_hostile_shard_of_the_zoo_is_taken(zoo_script, tmp_path):
    subprocess.run([sys.executable, zoo_script, tmp_path / "zoo"], check=False, capture_output=True, cwd=tmp_path)
    shards = tmp_path / "zoo" / "shards"
    for name in ("traversal", "links", "truncated", "duplicate_keys", "size_lie", "sparse_1t", "not_a_tar", "empty"):
        with pytest.raises(StoreError, match=name):
            scan_shard(shards / f"{name}.tar")
    with pytest.raises(StoreError, match="not a plain tar"):
        scan_shard(shards / "bomb_2g.tar.gz")
    assert len(scan_shard(shards / "mixed_good_bad.tar")) == 20
    assert not list(tmp_path.rglob("zoo_pwned*.txt"))
