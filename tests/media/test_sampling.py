import pytest
import torch

from reeltag.media.sampling import (
    dense,
    dense_clips,
    even_clips,
    random_clip,
    repeat_pad,
    segments,
    segments_twice,
    uniform_depth,
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("num_in_video", "num_frames", "expected"),
    [
        (80, 8, [5, 15, 25, 35, 45, 55, 65, 75]),
        (300, 8, [18, 56, 93, 131, 168, 206, 243, 281]),  # ticks of 37.5
        (9, 3, [1, 4, 7]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),  # int(0.1875 + 0.375 k)
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_segment_centres(num_in_video: int, num_frames: int, expected: list[int]):
    assert segments(num_in_video, num_frames) == expected


def test_segments_leave_room_for_a_stack():
    # 20 frames, stacks of 5: 16 places, ticks of 4; the last stack is frames 14 to 18.
    assert segments(20, 4, span=5) == [2, 6, 10, 14]
    assert segments(4, 2, span=5) == [0, 0]


def test_random_segments_stay_in_their_segment_and_reach_all_of_it():
    generator, seen = drawn(), [set() for _ in range(8)]
    for _ in range(400):
        indices = segments(43, 8, generator=generator)  # segments of 43 // 8 = 5 frames; 40, 41, 42 are left over
        for k, index in enumerate(indices):
            seen[k].add(index)
    assert seen == [set(range(5 * k, 5 * k + 5)) for k in range(8)]
    assert segments(43, 8, generator=drawn(3)) == segments(43, 8, generator=drawn(3))
    assert segments(3, 8, generator=generator) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_random_segments_with_little_room_are_sorted_draws():
    indices = segments(10, 8, span=5, generator=drawn())  # 6 places for 8 segments
    assert indices == sorted(indices)
    assert set(indices) <= set(range(6))


def test_two_test_clips_are_centres_then_starts():
    assert segments_twice(80, 4) == [10, 30, 50, 70, 0, 20, 40, 60]


def test_dense_takes_the_middle_or_a_random_start():
    assert dense(300, 8, 8) == [118, 126, 134, 142, 150, 158, 166, 174]  # starts 0 to 236, the middle is 118
    starts = {dense(66, 8, 8, generator=drawn(seed))[0] for seed in range(60)}
    assert starts == {0, 1, 2}
    assert dense(20, 8, 8) == [0, 8, 16, 4, 12, 0, 8, 16]  # modulo 20
    assert dense(64, 8, 8, generator=drawn()) == [0, 8, 16, 24, 32, 40, 48, 56]


def test_dense_test_clips_start_evenly():
    starts = [clip[0] for clip in dense_clips(154, 8, 8, 10)]
    assert starts == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert dense_clips(154, 8, 8, 1)[0][0] == 45
    assert dense_clips(20, 8, 8, 2) == [[0, 8, 16, 4, 12, 0, 8, 16]] * 2


def test_even_clips_cover_the_video_and_hold_the_last_frame():
    clips = even_clips(100, 4, 5, 6)
    assert [clip[0] for clip in clips] == [0, 16, 32, 48, 64, 80]
    assert clips[-1] == [80, 85, 90, 95]
    assert even_clips(10, 4, 5, 2) == [[0, 5, 9, 9], [0, 5, 9, 9]]
    assert even_clips(101, 4, 5, 1) == [[40, 45, 50, 55]]


def test_random_clips_hold_the_last_frame():
    assert random_clip(10, 4, 5, generator=drawn()) == [0, 5, 9, 9]
    starts = {random_clip(22, 4, 5, generator=drawn(seed))[0] for seed in range(60)}
    assert starts == {0, 1, 2}


def test_depth_is_kept_between_its_bounds():
    assert uniform_depth(40) == list(range(40))
    assert uniform_depth(10) == [*range(10), *range(6)]
    assert uniform_depth(16) == list(range(16))
    assert uniform_depth(128) == list(range(1, 128, 2))  # the centres of 64 segments of 2
    assert len(uniform_depth(1000)) == 64
    assert uniform_depth(10, min_depth=4, max_depth=4) == [1, 3, 6, 8]


def test_repeat_pad_plays_again_from_the_start():
    assert repeat_pad([3, 5, 9], 7) == [3, 5, 9, 3, 5, 9, 3]
    assert repeat_pad([3, 5, 9], 2) == [3, 5]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: segments(0, 8), "at least 1 frame, got 0"),
        (lambda: segments(8, 0), "num_frames must be at least 1, got 0"),
        (lambda: dense(8, 8, 0), "stride must be at least 1, got 0"),
        (lambda: even_clips(8, 8, 1, 0), "num_clips must be at least 1, got 0"),
        (lambda: uniform_depth(8, min_depth=9, max_depth=4), "min_depth 9 must not be above max_depth 4"),
        (lambda: repeat_pad([], 4), "at least one index"),
    ],
)
def test_bad_counts_are_named(call, match: str):
    with pytest.raises(ValueError, match=match):
        call()
