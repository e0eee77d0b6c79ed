"""The one-pass benchmark reads what it says: the frames of a clip, its flow pairs and its sound."""

from reeltag.bench import run_bench
from reeltag.bench.one_pass import audio_once, made_clips, one_pass, video_once


def test_both_sides_read_the_same_tracks(tmp_path):
    (path,) = made_clips(tmp_path, 1)
    assert audio_once(str(path), whole=False) >= 48000  # AAC pads the end
    assert video_once(str(path), whole=True) == 36
    assert one_pass(str(path), whole=True) == 36 + 1
    assert video_once(str(path), whole=False) == 16  # 8 segments of 4.5 frames, and the frame behind each
    assert one_pass(str(path), whole=False) == 16 + 1


def test_the_result_names_its_ratio(tmp_path):
    (path,) = made_clips(tmp_path, 1)
    found = run_bench("one_pass", [f"videos={path}", "rounds=2", f"out={tmp_path / 'r.json'}"])
    assert 0.3 < found["ratio_median"] < 3  # two pairs on a busy machine
    assert [row["pairs"] for row in found["rows"]] == [2, 2]
    assert (tmp_path / "r.json").is_file()
