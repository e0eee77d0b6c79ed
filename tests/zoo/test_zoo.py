"""The zoo: every good file is read right or refused, no bad file shows a wrong frame, no hostile file opens another."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

from reeltag.errors import MediaError
from reeltag.media import open_video, read_audio

pytestmark = pytest.mark.slow

CANARY_PORT = 18099  # where the hostile files point
CANARY_NUMBER = 1023  # what the frames of the files show that must not be opened
CORNERS = np.array([(224, 16, 16), (16, 224, 16), (16, 16, 224), (224, 224, 16)])
SOUND_ONLY = 5


def read_numbers(clip: Tensor) -> list[int]:
    """What the ten black or white cells say, the highest bit first."""
    height, width = clip.shape[2:]
    band = clip[:, :, height // 2 - height // 16 : height // 2 + height // 16].float().mean((1, 2))
    cell = width / 10
    cells = [band[:, int(cell * (i + 0.3)) : int(cell * (i + 0.7))].mean(1) > 128 for i in range(10)]
    return sum(bits.int() << (9 - i) for i, bits in enumerate(cells)).tolist()


def corner_error(clip: Tensor) -> int:
    """Largest difference between the corners of the first frame and red, green, blue, yellow."""
    height, width = clip.shape[2:]
    places = [(height // 10, width // 10), (height // 10, -width // 10), (-height // 10, width // 10)]
    places.append((-height // 10, -width // 10))
    return int(abs(np.array([clip[0, :, y, x].tolist() for y, x in places]) - CORNERS).max())


@pytest.fixture(scope="module")
def zoo(zoo_script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "z"
    subprocess.run([sys.executable, str(zoo_script), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def animals(zoo: Path) -> dict[str, dict]:
    """Expected facts by path."""
    entries = json.loads((zoo / "expected.json").read_text())
    names = {os.fsdecode(base64.b64decode(entry["name_b64"])): entry for entry in entries.values()}
    return {str(zoo / name): entry for name, entry in names.items() if entry["group"] != "shard"}


def of(animals: dict[str, dict], group: str) -> dict[str, dict]:
    return {path: entry for path, entry in animals.items() if entry["group"] == group}


def check_good(path: str, entry: dict) -> str:
    """Return "right", or how it is wrong."""
    with open_video(path) as video:
        clip = video.frames_at(range(video.num_frames))
        lowest, highest = entry.get("frames_min", entry["frames"]), entry.get("frames_max", entry["frames"])
        if not lowest <= video.num_frames <= highest:
            return f"{video.num_frames} frames"
        if (video.width, video.height) != (entry["width"], entry["height"]):
            return f"{video.width} x {video.height}"
        first = entry.get("first_number", 0)
        if read_numbers(clip) != list(range(first, first + video.num_frames)):
            return f"shows {read_numbers(clip)}"
        if not entry.get("gray") and corner_error(clip) > (64 if path.endswith(".gif") else 40):
            return f"colours differ by {corner_error(clip)}"
        wanted = [video.num_frames - 1, 0, video.num_frames // 2, 0]
        if read_numbers(video.frames_at(wanted)) != [first + index for index in wanted]:
            return "other frames when asked for alone"
        if "pts" in entry and abs(video.times_s - np.array(entry["pts"])).max() > 2e-3:
            return f"times {video.times_s}"
        if video.has_audio != entry["has_audio"]:
            return f"has_audio is {video.has_audio}"
        if video.has_audio and video.audio(16000).shape != (round(video.duration_s * 16000),):
            return f"sound of {video.audio(16000).shape}"
    return "right"


def test_good_files_are_right_or_refused(animals: dict[str, dict]):
    outcomes: dict[str, list[str]] = {}
    for path, entry in of(animals, "good").items():
        if not entry["has_video"] or not entry["pattern"]:
            continue
        try:
            outcome = check_good(path, entry)
        except MediaError as error:
            outcome = f"refused: {error.reason}"
        outcomes.setdefault(outcome, []).append(os.path.basename(path))
    right = len(outcomes.pop("right"))
    print(f"\n{right} right, others: {outcomes}")
    assert right + sum(map(len, outcomes.values())) == 104
    assert right >= 101
    assert all(outcome.startswith("refused") for outcome in outcomes), outcomes


def test_good_files_without_numbers_have_their_count_and_size(animals: dict[str, dict]):
    checked = 0
    for path, entry in of(animals, "good").items():
        if entry["has_video"] and not entry["pattern"]:
            with open_video(path) as video:
                found = (video.num_frames, video.width, video.height)
                assert found == (entry["frames"], entry["width"], entry["height"]), path
                last = video.frames_at([video.num_frames - 1])
                assert last.shape == (1, 3, entry["height"], entry["width"])
                checked += 1
    assert checked == 8


def test_sound_only_files_are_no_video_and_sound_right(animals: dict[str, dict]):
    checked = 0
    for path, entry in of(animals, "good").items():
        if entry["has_video"]:
            continue
        with pytest.raises(MediaError) as caught:
            open_video(path)
        assert caught.value.reason == "not_video"
        samples = read_audio(path, 16000).double().numpy()
        assert len(samples) == pytest.approx(48000, abs=1800), path  # lossy codecs pad to whole blocks
        middle = samples[8000:40000]
        spectrum = abs(np.fft.rfft(middle)) * 2 / len(middle)
        assert spectrum.argmax() == 440 * 2, path  # 2 s: half-hertz bins
        assert spectrum.max() == pytest.approx(0.4, abs=0.02), path
        checked += 1
    assert checked == SOUND_ONLY


def test_late_sound_is_aligned_to_the_picture(animals: dict[str, dict]):
    path = next(path for path in animals if path.endswith("audio_starts_late.mp4"))
    with open_video(path) as video:
        samples = video.audio(16000)
    assert samples[:15800].abs().max() < 0.01
    assert samples[16400:47000].abs().max() > 0.35


def test_bad_files_are_refused_with_their_reason_or_show_right_frames(animals: dict[str, dict]):
    problems, refused, read = [], 0, 0
    for path, entry in of(animals, "bad").items():
        start = time.monotonic()
        name = os.path.basename(path)
        try:
            with open_video(path) as video:
                clip = video.frames_at(range(video.num_frames))
                numbers, num_frames = read_numbers(clip), video.num_frames
                times_s, damaged = video.times_s, video.damaged
        except MediaError as error:
            refused += 1
            # A cut file may be told as damaged and the other way round; what is no damage has one name.
            same = {"truncated", "corrupt"} if entry["reason"] in ("truncated", "corrupt") else {entry["reason"]}
            if error.reason not in same:
                problems.append(f"{name}: {error.reason} instead of {entry['reason']}")
        else:
            read += 1
            if entry["reason"] == "permission_denied" and os.geteuid() == 0:
                assert numbers == list(range(30))  # root may read it
            elif not entry["readable"]:
                problems.append(f"{name}: read although it is {entry['reason']}")
            if numbers != sorted(set(numbers)) or max(numbers) >= 36:
                problems.append(f"{name}: shows {numbers}")
            if num_frames > entry.get("frames_max", 30):
                problems.append(f"{name}: {num_frames} frames")
            whole = numbers == list(range(30))
            if not whole and not damaged and not name.startswith("trunc_50_ts"):  # cut exactly between two pictures
                problems.append(f"{name}: {len(numbers)} of 30 frames without a word")
            assert (np.diff(times_s) > 0).all()
        if time.monotonic() - start > 10:
            problems.append(f"{name}: took {time.monotonic() - start:.0f} s")
    print(f"\n{refused} refused, {read} read")
    assert not problems, "\n".join(problems)
    assert refused + read == 83


@pytest.fixture
def canary_server() -> Iterator[list[bytes]]:
    """Listens where the hostile files point, and notes every connection."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", CANARY_PORT))
    server.settimeout(0.2)
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            heard.append(connection.recv(200))
            connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    yield heard
    stop.set()
    thread.join()
    server.close()


def test_hostile_files_open_nothing_else(
    zoo: Path, animals: dict[str, dict], canary_server: list[bytes], tmp_path: Path
):
    hostile = of(animals, "security")
    assert len(hostile) == 33
    others = {p.name: p for p in (zoo / "security").rglob("*") if p.is_file() and str(p) not in hostile}
    assert {"canary.mp4", "canary.ts", "passwd", "canary_sibling.mp4", "pat1.png"} <= set(others)

    # Access times say which files were read, by whatever code; they only move on when they are older than the change.
    def forget() -> None:
        for path in others.values():
            os.utime(path, (1, 2))

    forget()
    with av.open(str(zoo / "security" / "hls_local_ts.m3u8")) as container:  # the control: without the gate it is read
        assert next(container.decode(video=0)).width == 160
    assert others["canary.ts"].stat().st_atime != 1, "this file system keeps no access times; run on one that does"
    forget()
    opened: list[str] = []

    def audit(event: str, arguments: tuple) -> None:
        if event in ("open", "os.open", "socket.connect"):
            opened.append(str(arguments[0]))

    sys.addaudithook(audit)
    working = os.getcwd()
    os.chdir(zoo / "security")  # relative names in a playlist would be found here
    try:
        reasons = {}
        for path in hostile:
            for source in (path, os.path.relpath(path), Path(path).read_bytes()):
                with pytest.raises(MediaError) as caught, open_video(source) as video:
                    assert CANARY_NUMBER not in read_numbers(video.frames_at(range(video.num_frames)))
                reasons[os.path.basename(path)] = caught.value.reason
                with pytest.raises(MediaError):
                    read_audio(source)
    finally:
        os.chdir(working)
    time.sleep(0.5)
    assert canary_server == []
    assert [name for name in opened if os.path.basename(name) in others] == []
    assert [name for name, path in others.items() if path.stat().st_atime != 1] == []
    allowed = {"unsafe_reference", "not_media", "not_video"}
    assert set(reasons.values()) <= allowed
    assert sum(reason == "unsafe_reference" for reason in reasons.values()) >= 29, reasons
