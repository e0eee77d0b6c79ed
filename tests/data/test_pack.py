import gc
import json
import os
import pickle
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset

from reeltag.data import pack as pack_module
from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.data.pack_clip import choose_frames, shrink
from reeltag.data.shards import PackedVideos
from reeltag.errors import StoreError, TooManyBadFiles
from reeltag.media import open_video
from reeltag.store.lock import FolderLock


@pytest.fixture(scope="module")
def clips(tmp_path_factory, make_video) -> Manifest:
    """Four readable clips and one text file; `b` has sound, `c` is a part of `b`, `d` is tall."""
    folder = tmp_path_factory.mktemp("clips")
    make_video(folder / "a.mp4", seed=1)
    make_video(folder / "b.mp4", seed=2, num_frames=24, sound=True)
    make_video(folder / "d.mp4", seed=3, size=(48, 96))
    (folder / "bad.mp4").write_text("not a video, but long enough to be looked at")
    nan = float("nan")
    return Manifest.build(
        ["a.mp4", "b.mp4", "bad.mp4", "b.mp4", "d.mp4"], [[0], [0, 1], [1], [], [1]], ["x", "y z"], root=folder,
        splits=["train", "val", "train", "train", "test"],
        start_s=[nan, nan, nan, 0.5, nan], end_s=[nan, nan, nan, 1.5, nan],
    )  # fmt: skip


@pytest.fixture(scope="module")
def raw(clips, tmp_path_factory) -> PackedVideos:
    folder = tmp_path_factory.mktemp("raw")
    report = pack(clips, folder, store="raw", short_side_px=32, workers=0)
    assert (report.clips, len(report.bad), report.bad_share) == (4, 1, 0.2)
    return PackedVideos(folder)


def decoded(clips: Manifest, row: int, indices: list[int]) -> torch.Tensor:
    with open_video(clips.video_path(row)) as video:
        return video.frames_at(indices)


def test_raw_frames_are_the_decoded_frames_resized(clips, raw):
    assert [raw.num_frames(row) for row in range(4)] == [12, 24, 12, 12]
    assert [raw.size_px(row) for row in range(4)] == [(32, 48), (32, 48), (32, 48), (64, 32)]
    for row, source, offset in ((0, 0, 0), (1, 1, 0), (2, 3, 6), (3, 4, 0)):  # row 2 starts at 0.5 s of 12 fps
        frames = raw.frames(row, [7, 0, 7, 11])
        assert frames.dtype == torch.uint8
        expected = shrink(decoded(clips, source, [n + offset for n in (7, 0, 7, 11)]), 32)
        assert torch.equal(frames, expected)


def test_rows_keep_their_labels_and_know_what_was_left_out(clips, raw):
    assert raw.manifest.labels == ((0,), (0, 1), (), (1,))
    assert raw.manifest.video_ids == ("a", "b", "b@0.5-1.5", "d")
    assert raw.manifest.splits == ("train", "val", "train", "test")
    assert raw.manifest.hash == clips.take([0, 1, 3, 4]).hash
    bad = [json.loads(line) for line in (raw.folder / "bad_files.jsonl").read_text().splitlines()]
    assert [(line["row"], line["path"], line["reason"]) for line in bad] == [(2, "bad.mp4", "not_media")]
    info = raw.info(2)
    assert (info["video_id"], info["labels"], info["num_frames"], info["width"], info["height"]) == (
        "b@0.5-1.5",
        [],
        24,
        96,
        64,
    )
    np.testing.assert_allclose(info["times_s"], np.arange(12) / 12, atol=2e-3)
    assert raw.fps(2) == pytest.approx(12, rel=1e-3)


def test_sound_is_cut_like_the_pictures(clips, raw):
    assert raw.audio(0) is None
    whole, part = raw.audio(1), raw.audio(2)
    assert part.shape == (16000,)
    torch.testing.assert_close(part, whole[8000:24000], rtol=0, atol=0)
    with open_video(clips.video_path(1)) as video:
        torch.testing.assert_close(whole, video.audio(rate_hz=16000), rtol=0, atol=1 / 65534)  # half a step of 16 bits
    assert whole.abs().max() > 0.3


def luma(frames: torch.Tensor) -> torch.Tensor:
    return torch.einsum("tchw,c->thw", frames.float(), torch.tensor([0.299, 0.587, 0.114]))


def test_jpeg_frames_are_near_the_raw_ones_and_smaller(clips, raw, tmp_path):
    report = pack(clips, tmp_path, store="jpeg", short_side_px=32, workers=0, audio_rate_hz=None)
    packed = PackedVideos(tmp_path)
    for row in range(4):
        near, exact = luma(packed.frames(row, [3, 0])), luma(raw.frames(row, [3, 0]))
        assert near.shape == exact.shape
        assert (near - exact).abs().mean() < 3  # of 255, at quality 90; colour is stored at half the size
        assert (near - luma(packed.frames(row, [0, 3]))).abs().mean() > 5  # and another frame is further away
    assert packed.audio(1) is None
    assert (
        report.num_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.tar")) < sum(raw._sizes.values()) / 2
    )
    packed.verify()


def test_the_webdataset_library_reads_the_shards(raw):
    urls = sorted(str(file) for file in raw.folder.glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves closing files to the garbage collector
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
        gc.collect()
    assert [sample["__key__"] for sample in samples] == ["00000000", "00000001", "00000003", "00000004"]
    assert samples[1]["json"]["labels"] == ["x", "y z"]
    for row, sample in enumerate(samples):
        stored = torch.from_numpy(sample["npy"]).permute(0, 3, 1, 2)
        assert torch.equal(stored, raw.frames(row, range(raw.num_frames(row))))
    assert samples[1]["audio.npy"].dtype == np.int16


def test_packing_twice_gives_the_same_bytes_and_a_finished_pack_is_kept(clips, raw, tmp_path):
    pack(clips, tmp_path, store="raw", short_side_px=32, workers=0)
    for name in ("shard-000000.tar", "bad_files.jsonl", "shards.json", "labels.txt"):
        assert (tmp_path / name).read_bytes() == (raw.folder / name).read_bytes(), name
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = pack(clips, tmp_path, store="raw", short_side_px=32, workers=0)
    assert (again.clips, again.resumed, len(again.bad)) == (4, 4, 1)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    assert sorted(before) == [
        "bad_files.jsonl", "labels.txt", "manifest.parquet", "progress.jsonl", "shard-000000.tar", "shards.json",
    ]  # fmt: skip
    with pytest.raises(StoreError, match="another manifest or other settings"):
        pack(clips, tmp_path, store="raw", short_side_px=40, workers=0)


def test_a_stopped_pack_goes_on_where_it_was(clips, raw, tmp_path, monkeypatch):
    seen: list[int] = []

    def stop_at_the_fourth(done: int, total: int) -> None:
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    settings = {"store": "raw", "short_side_px": 32, "workers": 0, "shard_bytes": 1}  # a shard a clip
    with pytest.raises(KeyboardInterrupt):
        pack(clips, tmp_path, progress=stop_at_the_fourth, **settings)
    with pytest.raises(StoreError, match="no finished pack"):
        PackedVideos(tmp_path)
    with pytest.raises(StoreError, match="unfinished pack of another"):
        pack(clips, tmp_path, **{**settings, "shard_bytes": 2})
    with (tmp_path / "progress.jsonl").open("ab") as file:
        file.write(b'{"name": "shard-0000')  # killed while writing
    rows: list[int] = []
    encode = pack_module.encode_clip
    monkeypatch.setattr(
        pack_module, "encode_clip", lambda clip, settings: rows.append(clip.row) or encode(clip, settings)
    )
    report = pack(clips, tmp_path, **settings)
    assert rows == [4]  # rows 0, 1 and 3 lie in finished shards, row 2 is bad
    assert (report.clips, report.resumed, report.shards, len(report.bad)) == (4, 3, 4, 1)
    packed = PackedVideos(tmp_path)
    packed.verify()
    for row in range(4):
        assert torch.equal(packed.frames(row, [5]), raw.frames(row, [5]))


def test_a_shard_changed_after_the_stop_is_written_again(clips, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(clips, tmp_path, short_side_px=32, workers=0, shard_bytes=1, progress=stop)
    shard = tmp_path / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert pack(clips, tmp_path, short_side_px=32, workers=0, shard_bytes=1).resumed == 1
    PackedVideos(tmp_path).verify()


def test_damaged_and_lost_shards_of_a_finished_pack_are_made_anew_alone(clips, raw, tmp_path, monkeypatch):
    settings = {"store": "raw", "short_side_px": 32, "workers": 0, "shard_bytes": 1}  # a shard a clip
    pack(clips, tmp_path, **settings)
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    shard = tmp_path / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (tmp_path / "shard-000003.tar").unlink()
    rows: list[int] = []
    encode = pack_module.encode_clip
    monkeypatch.setattr(
        pack_module, "encode_clip", lambda clip, settings: rows.append(clip.row) or encode(clip, settings)
    )
    seen: list[int] = []
    report = pack(clips, tmp_path, progress=lambda done, total: seen.append(done), **settings)
    assert rows == [1, 4]
    assert (report.clips, report.resumed, report.mended, len(report.bad), seen) == (4, 2, 2, 1, [3, 4, 5])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole
    PackedVideos(tmp_path).verify()


def test_two_calls_do_not_write_to_one_folder(clips, tmp_path):
    with FolderLock(tmp_path, "something"), pytest.raises(StoreError, match="another process is writing a pack"):
        pack(clips, tmp_path, workers=0)


def test_nothing_readable_is_an_error_with_the_reasons(clips, tmp_path):
    with pytest.raises(TooManyBadFiles, match=r"none of 1 videos can be read \(not_media\)"):
        pack(clips.take([2]), tmp_path, workers=0)
    with pytest.raises(TooManyBadFiles, match=r"\(not_found\)"):
        pack(replace(clips.take([0]), paths=("gone.mp4",)), tmp_path / "b", workers=0)


@pytest.mark.slow
def test_workers_give_the_same_bytes(clips, raw, tmp_path):
    pack(clips, tmp_path, store="raw", short_side_px=32, workers=2)
    assert (tmp_path / "shard-000000.tar").read_bytes() == (raw.folder / "shard-000000.tar").read_bytes()


def test_settings_that_cannot_be_are_refused(clips, tmp_path):
    for wrong in ({"store": "zip"}, {"quality": 0}, {"short_side_px": 0}, {"fps": 0}, {"max_frames": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pack(clips, tmp_path, workers=0, **wrong)


def test_choice_of_frames():
    times = np.arange(10) / 10  # 10 fps, 1 s
    assert choose_frames(times, 0, 1, None, None).tolist() == list(range(10))
    assert choose_frames(times, 0, 1, None, 4).tolist() == [1, 3, 6, 8]  # floor((k + 0.5) * 10 / 4)
    assert choose_frames(times, 0, 1, 5, None).tolist() == [0, 2, 4, 6, 8]
    assert choose_frames(times, 0, 1, 50, None).tolist() == list(range(10))
    assert choose_frames(times, 0.25, 0.75, None, None).tolist() == [2, 3, 4, 5, 6, 7]  # frame 2 is shown at 0.25 s
    assert choose_frames(times, 0.3, 0.6, None, None).tolist() == [3, 4, 5]
    assert choose_frames(times, 5, 6, None, None).tolist() == [9]  # beyond the end: the last frame
    uneven = np.array([0, 0.5, 0.6, 0.7, 2.0])
    assert choose_frames(uneven, 0, 2.5, 2, None).tolist() == [0, 1, 3, 4]


def test_shrinking_keeps_the_shape_and_never_enlarges():
    frames = torch.arange(0, 240, dtype=torch.uint8).repeat(2, 3, 60, 1)  # (2, 3, 60, 240), a ramp
    small = shrink(frames, 30)
    assert small.shape == (2, 3, 30, 120)
    ramp = 2 * torch.arange(120) + 0.5
    assert (small[0, 0, 15, 2:-2].float() - ramp[2:-2]).abs().max() <= 1
    assert shrink(frames, 61) is frames


def test_packed_videos_travel_to_other_processes(raw):
    raw.frames(0, [0])  # maps a shard
    twin = pickle.loads(pickle.dumps(raw))
    assert torch.equal(twin.frames(1, [3]), raw.frames(1, [3]))


def test_odd_ids_survive_packing(clips, tmp_path):
    one = replace(clips.take([0]), video_ids=(os.fsdecode(b"n\xff\n\"'") + "日本",))
    pack(one, tmp_path, short_side_px=32, workers=0)
    packed = PackedVideos(tmp_path)
    assert packed.manifest.video_ids == one.video_ids
    assert packed.info(0)["video_id"] == one.video_ids[0]
    with tarfile.open(tmp_path / "shard-000000.tar") as archive:
        assert archive.getnames() == ["00000000.json", "00000000.jpegs"]


def test_paths_outside_the_folder_can_be_packed(clips, tmp_path):
    outside = replace(clips.take([0]), root=clips.root / "lists", paths=("../a.mp4",))
    pack(outside, tmp_path, short_side_px=32, workers=0)
    assert PackedVideos(tmp_path).manifest.paths == (str(clips.root / "a.mp4"),)


def test_a_pack_says_what_it_holds_in_a_sentence(mini_manifest, tmp_path, capsys):
    from reeltag.cli import app

    call = ["data", "pack", str(mini_manifest), "--out", str(tmp_path / "p"), "--short-side-px", "24", "--workers", "1"]
    for kept in ("", ", 48 of them there before"):
        app(call, standalone_mode=False)
        line = capsys.readouterr().out.strip()
        assert line.startswith(f"{tmp_path / 'p'}: frames and sound of 48 clips{kept}, ")
        assert line.endswith("0 unreadable")
