import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from reeltag.errors import MediaError
from reeltag.media import Limits, open_video, probe

CELLS = 10
CORNERS = ((224, 16, 16), (16, 224, 16), (16, 16, 224), (224, 224, 16))  # red, green / blue, yellow

OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=10:min-keyint=10:scenecut=0"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}
VP8_HIDDEN = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "10", "b": "900k"}
VARIABLE_MS = [i * 100 if i < 10 else 1000 + (i - 10) * 20 if i < 20 else 1200 + (i - 20) * 300 for i in range(30)]

KINDS: dict[str, dict] = {
    "b_frames.mp4": {"options": {"bf": "3"}},
    "b_pyramid.mkv": {"options": {"bf": "5", "b-pyramid": "normal"}},
    "open_gop.mp4": {"options": OPEN_GOP},
    "one_gop.mp4": {"gop": 999, "options": {"bf": "3"}},
    "intra_refresh.mp4": {"options": INTRA_REFRESH},
    "variable.mp4": {"times_ms": VARIABLE_MS, "options": {"bf": "2"}},
    "variable.mkv": {"times_ms": VARIABLE_MS, "options": {"bf": "2"}},
    "start_5s.mkv": {"start_s": 5},
    "start_100s.ts": {"start_s": 100},
    "plain.ts": {"options": {"bf": "2"}},
    "fragmented.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "plain.flv": {"options": {"bf": "2"}},
    "simple.avi": {"codec": "mpeg4"},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10:bframes=4:open-gop=1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}},
    "vp8.webm": {"codec": "libvpx", "options": VP8_HIDDEN},
    "lossless.mkv": {"codec": "ffv1", "pixels": "yuv444p"},
    "motion_jpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "deep.mp4": {"pixels": "yuv420p10le"},
}  # fmt: skip


def read_numbers(clip: Tensor) -> list[int]:
    """The numbers that the frames of a uint8 (T, 3, H, W) clip show."""
    _, _, height, width = clip.shape
    band = clip[:, :, height // 2 - height // 16 : height // 2 + height // 16].float().mean((1, 2))  # (T, W)
    cell = width / CELLS
    numbers = []
    for row in band:
        bits = [row[int(cell * (place + 0.3)) : int(cell * (place + 0.7))].mean() > 128 for place in range(CELLS)]
        numbers.append(sum(int(bit) << (CELLS - 1 - place) for place, bit in enumerate(bits)))
    return numbers


def read_corners(clip: Tensor) -> list[list[int]]:
    """The colours of the four corners of the first frame: upper left and right, lower left and right."""
    _, _, height, width = clip.shape
    y, x = height // 10, width // 10
    places = [(y, x), (y, -x), (-y, x), (-y, -x)]
    return [clip[0, :, y, x].tolist() for y, x in places]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_numbered) -> Path:
    return write_numbered(tmp_path_factory.mktemp("kinds") / request.param, **KINDS[request.param])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_every_frame_is_the_one_asked_for(kind: Path, cache_bytes: int):
    with open_video(kind, limits=Limits(cache_bytes=cache_bytes)) as video:
        assert video.num_frames == 30
        assert not video.damaged
        clip = video.frames_at(range(30))
        assert clip.shape == (30, 3, 120, 160)
        assert clip.dtype == torch.uint8
        assert read_numbers(clip) == list(range(30))
        draw = random.Random(0)
        for count in (1, 2, 8, 8, 8):
            wanted = draw.choices(range(30), k=count)
            assert torch.equal(video.frames_at(wanted), clip[wanted])  # bit for bit, in any order, with repeats
        found, expected = np.array(read_corners(clip)), np.array(CORNERS)
        assert abs(found - expected).max() <= 8, found


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
def test_times_follow_the_time_stamps(tmp_path: Path, write_numbered, name: str):
    path = write_numbered(tmp_path / name, times_ms=VARIABLE_MS, options={"bf": "2"})
    with open_video(path) as video:
        np.testing.assert_allclose(video.times_s * 1000, VARIABLE_MS, atol=1)
        # 0.95 s lies in frame 9, 1.01 s in frame 10, 3.0 s in frame 26 (shown from 3.0 s on), 3.89 s in frame 28.
        assert read_numbers(video.frames_at_s([0.95, 1.01, 3.0, 3.89, 0.0])) == [9, 10, 26, 28, 0]


@pytest.mark.parametrize("name", ["start_5s.mkv", "start_100s.ts"])
def test_time_zero_is_the_first_frame_whatever_the_file_says(tmp_path: Path, write_numbered, name: str):
    path = write_numbered(tmp_path / name, **KINDS[name])
    with open_video(path) as video:
        assert video.duration_s == pytest.approx(3.0, abs=2e-3)
        assert video.fps == pytest.approx(10, abs=0.01)
        assert read_numbers(video.frames_at_s([0, 0.1, 1.25, 2.999])) == [0, 1, 12, 29]


def test_facts_of_a_video(numbered: Path):
    with open_video(str(numbered)) as video:
        facts = (video.num_frames, video.width, video.height, video.has_audio, video.damaged)
        assert facts == (30, 160, 120, False, False)
        assert video.fps == pytest.approx(10)
        assert video.duration_s == pytest.approx(3)
        np.testing.assert_allclose(np.diff(video.times_s), 0.1, atol=1e-9)
    info = probe(numbered)
    assert (info.has_video, info.has_audio, info.video_codec, info.width, info.height) == (
        True,
        False,
        "h264",
        160,
        120,
    )
    assert info.fps == 10
    assert info.duration_s == pytest.approx(3)


def test_bytes_and_file_objects_are_read_like_files(numbered: Path):
    data = numbered.read_bytes()
    with open_video(data) as from_bytes, numbered.open("rb") as file, open_video(file) as from_object:
        assert read_numbers(from_bytes.frames_at([29, 3])) == [29, 3]
        assert read_numbers(from_object.frames_at([29, 3])) == [29, 3]


@pytest.mark.parametrize(("degrees", "corners"), [(90, (1, 3, 0, 2)), (180, (3, 2, 1, 0)), (270, (2, 0, 3, 1))])
def test_rotation_marks_are_applied(tmp_path: Path, write_numbered, degrees: int, corners: tuple[int, ...]):
    # Degrees turn the picture counter-clockwise: at 90 the right corners (green, yellow) come to the top.
    path = write_numbered(tmp_path / "turned.mp4", rotation=degrees)
    with open_video(path) as video:
        clip = video.frames_at([7])
        assert (video.width, video.height) == ((120, 160) if degrees != 180 else (160, 120))
        assert clip.shape[2:] == (video.height, video.width)
        expected = np.array([CORNERS[corner] for corner in corners])
        assert abs(np.array(read_corners(clip)) - expected).max() <= 8


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
def test_colours_follow_the_stated_matrix_and_range(tmp_path: Path, write_numbered, pixels: str, matrix: int):
    def tag(stream: av.VideoStream) -> None:
        stream.codec_context.colorspace = matrix

    # The encoder is fed RGB converted by the default matrix; so a BT.709 tag must *change* what is read.
    path = write_numbered(tmp_path / "colours.mp4", pixels=pixels, prepare=tag)
    with open_video(path) as video:
        found = np.array(read_corners(video.frames_at([0])))
    assert (abs(found - np.array(CORNERS)).max() <= 8) == (matrix == 5), found


def test_a_new_size_inside_the_stream_is_scaled_to_the_first(tmp_path: Path, write_numbered):
    small = write_numbered(tmp_path / "small.ts", range(10)).read_bytes()
    large = write_numbered(tmp_path / "large.ts", range(10, 20), size=(320, 240), start_s=1).read_bytes()
    with open_video(small + large) as video:
        clip = video.frames_at(range(video.num_frames))
        assert clip.shape == (20, 3, 120, 160)
        assert read_numbers(clip) == list(range(20))
        assert read_numbers(video.frames_at([15])) == [15]
        assert video.frames_at([15]).shape == (1, 3, 120, 160)


def test_the_largest_picture_track_is_read(tmp_path: Path, numbered_frame):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((80, 60), (160, 120)):
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append(stream)
        for i in range(5):
            for stream, offset in zip(streams, (512, 0), strict=True):
                picture = numbered_frame(offset + i, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    with open_video(path) as video:
        assert (video.width, video.height) == (160, 120)
        assert read_numbers(video.frames_at(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wanted", [[30], [-1], [0, 31], []])
def test_frames_outside_are_refused_with_what_is_allowed(numbered: Path, wanted: list[int]):
    with open_video(numbered) as video, pytest.raises(ValueError, match="allowed: 0 to 29|indices is empty"):
        video.frames_at(wanted)


@pytest.mark.parametrize("time_s", [-0.01, 3.3, float("nan")])
def test_times_outside_are_refused_with_what_is_allowed(numbered: Path, time_s: float):
    with open_video(numbered) as video, pytest.raises(ValueError, match="allowed: 0 to 3 s"):
        video.frames_at_s([time_s])


def test_one_thread_decodes(numbered: Path):
    with open_video(numbered) as video:
        video.frames_at([5])
        assert video._decoder._context.thread_count == 1


# ---------------------------------------------------------------------- damage: right frames or a reason, never others


def test_a_cut_file_gives_its_whole_frames_and_says_so(tmp_path: Path, write_numbered):
    path = write_numbered(tmp_path / "front.mp4", mux={"movflags": "+faststart"}, options={"bf": "2"})
    data = path.read_bytes()
    with open_video(data[: len(data) * 6 // 10]) as video:
        assert video.damaged
        numbers = read_numbers(video.frames_at(range(video.num_frames)))
        assert 5 <= len(numbers) < 30
        assert numbers == sorted(set(numbers))
        assert numbers == [round(time * 10) for time in video.times_s]


@pytest.mark.parametrize("name", ["cut.mkv", "cut.flv", "cut.avi"])
@pytest.mark.parametrize("percent", [60, 75, 90])
def test_cut_streams_never_show_another_frame(tmp_path: Path, write_numbered, name: str, percent: int):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    data = write_numbered(tmp_path / name, codec=codec, options={"bf": "2"}).read_bytes()
    with open_video(data[: len(data) * percent // 100]) as video:
        assert video.damaged
        numbers = read_numbers(video.frames_at(range(video.num_frames)))
        assert (
            numbers == [round(time * 10) for time in video.times_s] if name != "cut.avi" else numbers == sorted(numbers)
        )
        assert 0 < len(numbers) < 30


def test_a_hole_in_a_transport_stream_hides_the_frames_that_need_it(tmp_path: Path, write_numbered):
    data = write_numbered(tmp_path / "whole.ts", options={"bf": "2"}).read_bytes()
    packets = len(data) // 188
    with open_video(data[: 188 * (packets // 3)] + data[188 * (2 * packets // 3) :]) as video:
        assert video.damaged
        numbers = read_numbers(video.frames_at(range(video.num_frames)))
        assert numbers == [round(time * 10) for time in video.times_s]
        assert 5 < len(numbers) < 30


def test_damaged_pictures_are_reported_and_the_others_given(tmp_path: Path, write_numbered):
    path = write_numbered(tmp_path / "flipped.mp4", options={"bf": "0"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for at in range(packets[12][0] + 6, packets[12][0] + packets[12][1]):
        data[at] ^= 0x5A
    with open_video(bytes(data)) as video:
        assert read_numbers(video.frames_at([3, 25])) == [3, 25]
        with pytest.raises(MediaError, match="frame 1[0-9] of 30 cannot be decoded") as caught:
            video.frames_at(range(30))
        assert caught.value.reason == "corrupt"
        assert video.damaged
        assert read_numbers(video.frames_at([9, 20])) == [9, 20]


def test_random_damage_is_refused_or_shows_the_right_frames(tmp_path: Path, write_numbered):
    """Sixty damaged copies. H.264 has no checksums, so one in sixty may pass unnoticed; more would be our fault."""
    draw = random.Random(0)
    outcomes = {"right": 0, "refused": 0, "wrong": 0}
    for name in ("flip.mp4", "flip.mkv"):
        data = write_numbered(tmp_path / name, options={"bf": "2"}).read_bytes()
        for _ in range(30):
            damaged = bytearray(data)
            for _ in range(draw.choice((1, 10, 100))):
                damaged[draw.randrange(len(data) // 5, len(data) * 9 // 10)] ^= 1 << draw.randrange(8)
            try:
                with open_video(bytes(damaged)) as video:
                    numbers = read_numbers(video.frames_at(range(video.num_frames)))
            except MediaError:
                outcomes["refused"] += 1
                continue
            outcomes["right" if numbers == sorted(set(numbers)) and max(numbers) < 30 else "wrong"] += 1
    assert outcomes["wrong"] <= 1, outcomes
    assert outcomes["right"] >= 5, outcomes
    assert outcomes["refused"] >= 20, outcomes


def test_frames_before_the_first_key_frame_are_not_counted(tmp_path: Path, write_numbered):
    whole = write_numbered(tmp_path / "whole.mkv", options={"bf": "0"})
    late = tmp_path / "late.mkv"
    with av.open(str(whole)) as source, av.open(str(late), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for row, packet in enumerate(source.demux(video=0)):
            if row > 0 and packet.size:
                packet.stream = stream
                target.mux(packet)
    with open_video(late) as video:
        assert video.damaged
        assert read_numbers(video.frames_at(range(video.num_frames))) == list(range(10, 30))


@pytest.mark.slow
def test_real_files_equal_plain_decoding(data_dir: Path):
    """Every file of the collection: all frames, and random ones, bit for bit those of decoding from the start."""
    from reeltag.media.container import video_stream
    from reeltag.media.picture import Painter

    compared = 0
    for path in sorted(
        p for p in (data_dir / "testmedia").rglob("*") if p.is_file() and p.suffix not in (".txt", ".tsv")
    ):
        if path.name == "corrupted.mp4":  # plain decoding shows wrong frames in it
            continue
        try:
            with open_video(path) as video, av.open(str(path)) as container:
                stream = video_stream(container)
                painter = Painter()
                plain = [painter.rgb(frame).copy() for frame in container.decode(stream)]
                if not plain:  # a header and nothing behind it
                    with pytest.raises(MediaError):
                        video.frames_at([0])
                    continue
                assert len(plain) == video.num_frames, path
                draw = random.Random(1)
                for count in (1, 3, 8):
                    wanted = draw.choices(range(video.num_frames), k=count)
                    clip = video.frames_at(wanted).permute(0, 2, 3, 1).numpy()
                    for picture, index in zip(clip, wanted, strict=True):
                        np.testing.assert_array_equal(picture, plain[index], err_msg=f"{path} frame {index}")
                compared += 1
        except MediaError:
            continue
    assert compared >= 45
