import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest

from reeltag.errors import MediaError
from reeltag.media import Limits, open_video, probe, read_audio

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"
REFERENCES = {
    "playlist": HLS,
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?>\n<MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>\n',
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    "smil": '<smil><body><video src="{target}"/></body></smil>',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    "rtsp": "RTSPtextRTSP://127.0.0.1:1/x\r\n",
    "address": "http://127.0.0.1:1/x.mp4\n",
}


def reason(source: Path | bytes | str, limits: Limits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        open_video(source, limits=limits or Limits())
    assert caught.value.detail
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\0", "not_media"),
        (bytes(65536), "not_media"),
        (b"This is not a video.\n" * 100, "not_media"),
        (b"<!DOCTYPE html><html></html>" * 20, "not_media"),
        (np.random.default_rng(0).bytes(100_000), "not_media"),
        (b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n", "not_media"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), "not_video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not_video"),
        (b"RIFF\0\1\0\0WEBPVP8 " + bytes(100), "unsupported"),
        (b"\0\0\0\x18ftypisom" + bytes(12), "truncated"),
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert reason(path) == expected
    assert reason(content) == expected


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat"])
def test_files_that_name_other_files_are_refused(numbered: Path, tmp_path: Path, kind: str, suffix: str):
    path = tmp_path / f"clip.{suffix}"
    path.write_text(REFERENCES[kind].format(target=numbered))
    assert reason(path) == "unsafe_reference"


def test_a_data_reference_to_another_file_is_refused(numbered: Path):
    data = bytearray(numbered.read_bytes())
    at = data.index(b"dref") + 4 + 8 + 8  # behind version, flags, count, size and type of the first entry
    assert data[at : at + 4] == b"\0\0\0\1"  # "in this very file"
    data[at + 3] = 0
    assert reason(bytes(data)) == "unsafe_reference"


def test_an_encrypted_track_is_refused(numbered: Path):
    assert reason(numbered.read_bytes().replace(b"avc1", b"encv")) == "encrypted"


def test_cut_and_damaged_headers_are_told_apart(numbered: Path):
    data = numbered.read_bytes()
    moov = data.index(b"moov") - 4
    assert reason(data[: len(data) // 3]) == "truncated"
    assert reason(data[: moov + 200]) == "truncated"
    assert reason(data[:moov]) == "corrupt"  # whole, but never closed
    assert reason(data[:moov] + data[moov:].replace(b"stsz", b"xxxx")) == "corrupt"


def test_things_that_are_no_regular_files_are_refused_at_once(tmp_path: Path):
    assert reason(tmp_path) == "not_a_file"
    assert reason(tmp_path / "nothing.mp4") == "not_found"
    assert reason("http://127.0.0.1:1/x.mp4") == "not_found"
    assert reason(str(tmp_path / "zero\0byte.mp4")) == "not_found"
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.mp4")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.close()
    found = {name: reason(tmp_path / name) for name in ("dangling.mp4", "loop.mp4", "device.mp4", "pipe.mp4", "s")}
    assert found == {
        "dangling.mp4": "not_found",
        "loop.mp4": "not_found",
        "device.mp4": "not_a_file",
        "pipe.mp4": "not_a_file",
        "s": "not_a_file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(numbered: Path):
    numbered.chmod(0)
    assert reason(numbered) == "permission_denied"


def test_limits_refuse_before_work_is_done(tmp_path: Path, write_numbered, numbered: Path):
    assert reason(numbered, Limits(max_bytes=1000)) == "too_large"
    assert reason(numbered.read_bytes(), Limits(max_bytes=1000)) == "too_large"
    assert reason(numbered, Limits(max_pixels=160 * 120 - 1)) == "too_large"
    assert reason(numbered, Limits(max_duration_s=2)) == "too_long"
    assert reason(numbered, Limits(timeout_s=1e-9)) == "timeout"
    with_sound = write_numbered(tmp_path / "sound.mkv", sound=np.zeros((1, 48000)))
    assert reason(with_sound, Limits(max_streams=1)) == "too_many_streams"
    with open_video(with_sound, limits=Limits(max_streams=2, max_pixels=160 * 120, max_duration_s=3)) as video:
        assert video.num_frames == 30
    sparse = tmp_path / "sparse.mp4"
    with sparse.open("wb") as file:
        file.truncate(64 << 30)
    assert reason(sparse) == "too_large"
    with pytest.raises(ValueError, match="max_pixels must be above 0"):
        Limits(max_pixels=0)


def test_a_lying_duration_is_not_believed(numbered: Path):
    data = bytearray(numbered.read_bytes())
    for box, offset in ((b"mvhd", 16), (b"mdhd", 16)):
        at = data.index(box) + 4 + offset
        data[at : at + 4] = (2**30).to_bytes(4, "big")
    with open_video(bytes(data)) as video:
        assert (video.num_frames, video.duration_s) == (30, pytest.approx(3.0))


def test_file_descriptors_are_given_back(numbered: Path, tmp_path: Path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(numbered.read_bytes()[:2000])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with open_video(numbered) as video:
            video.frames_at([0])
        probe(numbered)
        reason(bad)
        with pytest.raises(MediaError, match="no sound track"):
            read_audio(numbered)
    assert len(os.listdir("/proc/self/fd")) == before
