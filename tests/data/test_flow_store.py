"""Stored flow: which pairs, which bytes, and that damage is found and mended."""

import gc
import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from reeltag.data import flow_store as flow_store_module
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import FlowStore, is_flow_store, write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.data.pack_clip import shrink
from reeltag.data.shards import INDEX_COLUMNS, PackedVideos
from reeltag.errors import ReeltagError, StoreError, TooManyBadFiles
from reeltag.media import open_video
from reeltag.media.encode import write_video
from reeltag.media.flow import compute_flow, dequantise, quantise, resize_flow

DIS = FlowSettings(method="dis", short_side_px=48)


def drifting(path: Path, shift: tuple[int, int], num_frames: int, seed: int) -> None:
    """Write a 96 x 64 video at 12 fps of a smooth texture that moves by `shift` pixels a frame."""
    noise = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(noise, (160, 192), mode="bicubic")[0].clamp(0, 1) * 255
    frames = []
    for n in range(num_frames):
        top, left = 48 - shift[1] * n, 48 - shift[0] * n
        frames.append(picture[:, top : top + 64, left : left + 96])
    pixels = torch.stack(frames).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    write_video(path, np.ascontiguousarray(pixels), 12, crf=8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Manifest:
    """`a` drifts to the left, `b` down, `c` is the second second of `b`; one text file is called a video."""
    folder = tmp_path_factory.mktemp("clips")
    drifting(folder / "a.mp4", (-2, 0), 8, seed=0)
    drifting(folder / "b.mp4", (0, 2), 24, seed=1)
    (folder / "bad.mp4").write_text("not a video, but long enough to be looked at")
    nan = float("nan")
    return Manifest.build(
        ["a.mp4", "b.mp4", "bad.mp4", "b.mp4"], [[0], [1], [1], []], ["left", "down"], root=folder,
        video_ids=["a", "b", "bad", "c"], splits=["train", "val", "train", "test"],
        start_s=[nan, nan, nan, 1.0], end_s=[nan, nan, nan, 2.0],
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored(clips, tmp_path_factory) -> FlowStore:
    folder = tmp_path_factory.mktemp("flow")
    report = write_flow(clips, folder, DIS, workers=0, shard_bytes=1)  # a shard a clip
    assert (report.clips, report.shards, report.resumed, report.mended) == (3, 3, 0, 0)
    assert [(line["video_id"], line["reason"]) for line in report.bad] == [("bad", "not_media")]
    return FlowStore(folder)


def frames_of(clips: Manifest, row: int, indices: list[int], short_side_px: int = 48) -> torch.Tensor:
    with open_video(clips.video_path(row)) as video:
        return shrink(video.frames_at(indices), short_side_px)


def test_each_field_leads_to_the_next_frame_and_the_last_is_repeated(clips, stored):
    assert [stored.num_frames(row) for row in range(3)] == [8, 24, 12]
    assert [stored.size_px(row) for row in range(3)] == [(48, 72)] * 3
    for row, source, first, count in ((0, 0, 0, 8), (2, 3, 12, 12)):
        frames = frames_of(clips, source, list(range(first, first + count)))
        pairs = [(k, k + 1) for k in range(count - 1)] + [(count - 2, count - 1)]
        expected = quantise(compute_flow(frames, pairs, "dis"))
        flow = stored.flow(row, range(count))
        assert flow.dtype == torch.uint8
        assert torch.equal(flow, expected)
    assert torch.equal(stored.flow(0, [5, 0, 5]), stored.flow(0, range(8))[[5, 0, 5]])


def test_known_motion_has_its_direction_in_stored_pixels(stored):
    left, down = (dequantise(stored.flow(row, [3]))[0, :, 8:-8, 8:-8].mean((1, 2)) for row in (0, 1))
    torch.testing.assert_close(left, torch.tensor([-1.5, 0.0]), rtol=0, atol=0.1)  # 2 px of 64 are 1.5 of 48
    torch.testing.assert_close(down, torch.tensor([0.0, 1.5]), rtol=0, atol=0.1)


def test_clips_are_found_by_id_and_keep_what_is_known_of_them(clips, stored):
    assert stored.manifest.video_ids == ("a", "b", "c")
    assert stored.manifest.hash == clips.take([0, 1, 3]).hash
    assert [stored.row_of(name) for name in ("c", "a")] == [2, 0]
    assert "a" in stored
    assert "bad" not in stored
    with pytest.raises(StoreError, match=r"no flow of 'bad'; see its bad_files.jsonl"):
        stored.row_of("bad")
    assert stored.fps(1) == pytest.approx(12)
    assert stored.fps(2) == pytest.approx(12)
    info = stored.info(2)
    assert (info["video_id"], info["labels"], info["split"], info["method"]) == ("c", [], "test", "dis")
    assert info["frames"] == list(range(12, 24))
    np.testing.assert_allclose(stored.times_s(2), np.arange(12) / 12, atol=2e-3)
    assert stored.settings == {
        "method": "dis", "step": 1, "fps": None, "max_frames": None, "bound_px": 20.0, "form": "quantised",
        "short_side_px": 48, "compute_px": None, "weights": None,
    }  # fmt: skip
    assert is_flow_store(stored.folder)
    assert not is_flow_store(clips.root)


def test_thinned_frames_keep_their_own_successors(clips, tmp_path):
    write_flow(clips.take([1]), tmp_path / "few", replace(DIS, max_frames=4, step=2), workers=0)
    few = FlowStore(tmp_path / "few")
    assert few.info(0)["frames"] == [3, 9, 15, 21]  # floor((k + 0.5) * 24 / 4), as packing chooses
    assert few.fps(0) == pytest.approx(2)
    frames = frames_of(clips, 1, list(range(24)))
    expected = quantise(compute_flow(frames, [(3, 5), (9, 11), (15, 17), (21, 23)], "dis"))
    assert torch.equal(few.flow(0, range(4)), expected)

    write_flow(clips.take([1]), tmp_path / "slow", replace(DIS, fps=4, max_frames=3), workers=0)
    slow = FlowStore(tmp_path / "slow")  # of frames 0, 3, 6, ..., 21: the next one is 3 frames later
    assert slow.info(0)["frames"] == [3, 12, 18]
    assert slow.fps(0) == pytest.approx(1.5)
    expected = quantise(compute_flow(frames, [(3, 6), (12, 15), (18, 21)], "dis"))
    assert torch.equal(slow.flow(0, range(3)), expected)


def test_a_field_computed_at_another_size_has_vectors_of_the_stored_one(clips, tmp_path):
    write_flow(clips.take([0]), tmp_path, replace(DIS, short_side_px=32, compute_px=64), workers=0)
    small = FlowStore(tmp_path)
    frames = frames_of(clips, 0, list(range(8)), 64)
    field = compute_flow(frames, [(3, 4)], "dis")
    assert torch.equal(small.flow(0, [3]), quantise(resize_flow(field, 32, 48)))
    assert dequantise(small.flow(0, [3]))[0, 0].mean() == pytest.approx(-1, abs=0.1)


def test_images_have_twice_the_bound_and_zeros(clips, tmp_path):
    write_flow(clips.take([0]), tmp_path, replace(DIS, form="image", bound_px=40.0), workers=0)
    images = FlowStore(tmp_path).flow(0, [2, 3])
    assert images.shape == (2, 3, 48, 72)
    assert not images[:, 2].any()
    frames = frames_of(clips, 0, [2, 3, 4])
    flow = compute_flow(frames, [(0, 1), (1, 2)], "dis")
    assert torch.equal(images[:, :2], quantise(flow, 40.0))


def test_flow_of_a_pack_is_that_of_its_frames(clips, tmp_path):
    pack(clips, tmp_path, store="raw", short_side_px=40, max_frames=6, workers=0)
    videos = PackedVideos(tmp_path)
    report = write_flow(videos, tmp_path / "flow", DIS, workers=0)
    assert (report.clips, report.bad) == (3, ())
    flow = FlowStore(tmp_path / "flow")
    assert not set(flow.manifest.extra) & (set(INDEX_COLUMNS) - {"shard", "offset", "size"})
    for row in range(3):
        assert (flow.num_frames(row), flow.size_px(row)) == (6, (40, 60))  # never enlarged
        assert flow.fps(row) == pytest.approx(videos.fps(row))
        pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (4, 5)]
        expected = quantise(compute_flow(videos.frames(row, range(6)), pairs, "dis"))
        assert torch.equal(flow.flow(row, range(6)), expected)
    np.testing.assert_allclose(flow.times_s(1), videos.info(1)["times_s"])
    write_flow(videos, tmp_path / "slow", replace(DIS, fps=3), workers=0)  # b has 3 frames a second, a has 9
    slow = FlowStore(tmp_path / "slow")
    for row, pairs in ((0, [(0, 3), (1, 4), (2, 5), (2, 5), (2, 5), (2, 5)]), (1, [(k, k + 1) for k in range(5)])):
        expected = quantise(compute_flow(videos.frames(row, range(6)), pairs, "dis"))
        assert torch.equal(slow.flow(row, range(len(pairs))), expected)
    with pytest.raises(ReeltagError, match="packed frames are chosen already"):
        write_flow(videos, tmp_path / "other", replace(DIS, max_frames=3), workers=0)


def test_a_pack_that_was_made_anew_is_opened_anew(clips, tmp_path):
    for number, row in enumerate((0, 1)):
        shutil.rmtree(tmp_path / "pack", ignore_errors=True)
        pack(clips.take([row]), tmp_path / "pack", store="raw", short_side_px=40, max_frames=2, workers=0)
        videos = PackedVideos(tmp_path / "pack")
        write_flow(videos, tmp_path / str(number), DIS, workers=0)
        expected = quantise(compute_flow(videos.frames(0, [0, 1]), [(0, 1)], "dis"))
        assert torch.equal(FlowStore(tmp_path / str(number)).flow(0, [0]), expected)


def test_long_clips_are_computed_in_parts(clips, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("reeltag.data.flow_clip._CHUNK_FRAMES", 8)
    write_flow(clips.take([1]), tmp_path, DIS, workers=0)
    assert torch.equal(FlowStore(tmp_path).flow(0, range(24)), stored.flow(1, range(24)))


def test_the_webdataset_library_reads_the_shards(stored):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves closing files to the garbage collector
        (sample,) = webdataset.WebDataset(str(stored.folder / "shard-000000.tar"), shardshuffle=False).decode()
        gc.collect()
    assert torch.equal(torch.from_numpy(sample["flow.npy"]).permute(0, 3, 1, 2), stored.flow(0, range(8)))
    assert sample["json"]["video_id"] == "a"


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_when_it_is_read_and_mended_alone(clips, stored, tmp_path, monkeypatch):
    folder = tmp_path / "flow"
    shutil.copytree(stored.folder, folder)
    flow = FlowStore(folder)
    place = int(flow._columns["flow_offset"][1]) + int(flow._columns["flow_bytes"][1]) - 5  # in the last field of b
    flip_bit(folder / "shard-000001.tar", place)
    (folder / "shard-000002.tar").unlink()
    with pytest.raises(StoreError, match=r"shard-000002.tar: this shard is missing; run the same `reeltag flow` again"):
        FlowStore(folder)
    shutil.copy(stored.folder / "shard-000002.tar", folder)
    flow = FlowStore(folder)
    assert torch.equal(flow.flow(1, range(23)), stored.flow(1, range(23)))
    with pytest.raises(StoreError, match=r"shard-000001.tar: clip 'b' is damaged \(the CRC-32 of field 23 differs"):
        flow.flow(1, [0, 23])
    with pytest.raises(StoreError, match=r"shard-000001.tar: SHA-256 .* makes damaged shards anew"):
        flow.verify()
    made = []
    encode = flow_store_module.encode_flow
    monkeypatch.setattr(
        flow_store_module, "encode_flow", lambda clip, **options: made.append(clip.row) or encode(clip, **options)
    )
    report = write_flow(clips, folder, DIS, workers=0, shard_bytes=1)
    assert made == [1]
    assert (report.resumed, report.mended, report.clips) == (2, 1, 3)
    for path in stored.folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    FlowStore(folder).verify()


def test_an_index_that_points_elsewhere_is_refused(stored, tmp_path):
    folder = tmp_path / "flow"
    shutil.copytree(stored.folder, folder)
    manifest = Manifest.read(folder / "manifest.parquet")
    wrong = (*manifest.extra["flow_bytes"][:2], 1 << 40)
    replace(manifest, extra={**manifest.extra, "flow_bytes": wrong}).write(folder / "manifest.parquet")
    with pytest.raises(StoreError, match="row 2 points outside the shard"):
        FlowStore(folder)
    (folder / "flow.json").write_text(json.dumps({"settings": {"form": "wavelet", "bound_px": 1}, "shards": []}))
    with pytest.raises(StoreError, match="settings that this version does not write"):
        FlowStore(folder)
    (folder / "flow.json").unlink()
    with pytest.raises(StoreError, match=r"no finished flow store; run `reeltag flow`"):
        FlowStore(folder)


def test_objects_travel_and_indices_are_checked(stored):
    stored.flow(0, [0])
    assert torch.equal(pickle.loads(pickle.dumps(stored)).flow(1, [3]), stored.flow(1, [3]))
    for indices in ([8], [-1], []):
        with pytest.raises(ValueError, match=r"give numbers in \[0, 8\)"):
            stored.flow(0, indices)


def test_what_cannot_be_is_refused(clips, stored, tmp_path):
    for wrong in ({"step": 0}, {"fps": 0}, {"bound_px": 0.0}, {"method": "farneback"}, {"form": "jpeg"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(DIS, **wrong)
    with pytest.raises(ValueError, match="raft, and raft alone"):
        write_flow(clips, tmp_path, replace(DIS, method="raft"), workers=0)
    with pytest.raises(StoreError, match="holds a flow store of another manifest or other settings"):
        write_flow(clips, stored.folder, replace(DIS, step=2), workers=0)
    with pytest.raises(TooManyBadFiles, match=r"none of 1 videos can be read \(not_media\)"):
        write_flow(clips.take([2]), tmp_path, DIS, workers=0)
    pack(clips.take([0]), tmp_path / "pack", short_side_px=32, workers=0)
    with pytest.raises(StoreError, match="choose another folder"):
        write_flow(clips, tmp_path / "pack", DIS, workers=0)
