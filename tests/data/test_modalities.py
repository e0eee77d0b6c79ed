"""Pictures, flow and sound of one clip: one draw for all, and a missing track that changes nothing else."""

import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reeltag.data.dataset import ClipDataset, collate, in_order, make_loader
from reeltag.data.footage import FileFootage, open_footage
from reeltag.data.looking import look
from reeltag.data.manifest import Manifest
from reeltag.data.mixing import MixedClips
from reeltag.data.sound_mixing import mix_sounds
from reeltag.data.sources import FileSource
from reeltag.data.views import TestView, TrainingView
from reeltag.media import open_media
from reeltag.media.encode import write_video
from reeltag.recipe import DataSection, StageSection, TestSection
from reeltag.sections import AudioSection, FlowSection, MixSection

ALL = ("rgb", "flow", "audio")
DATA = DataSection(
    num_frames=4, short_side_px=40, crop="random", crop_px=32, flip=True, flip_time=True, gain=0.2,
    audio=AudioSection(seconds=0.5, gain_db=6), flow=FlowSection(method="dis"),
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One clip four times: with a tone, with its first frame alone, without a track, with a silent one."""
    folder = tmp_path_factory.mktemp("tracks")
    rng = np.random.default_rng(1)
    texture = rng.integers(30, 220, (14, 40, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    frames = np.stack([texture[:56, 2 * n : 2 * n + 80] for n in range(20)])
    tone = (0.4 * np.sin(2 * np.pi * 500 * np.arange(32000) / 16000)).astype(np.float32)
    write_video(folder / "heard.mp4", frames, 10, audio=tone)
    write_video(folder / "still.mp4", frames[:1], 10, audio=tone[:1600])
    write_video(folder / "mute.mp4", frames, 10)
    write_video(folder / "silent.mp4", frames, 10, audio=np.zeros(32000, np.float32))
    names = ["heard", "still", "mute", "silent"]
    labels = [[0], [1], [0], [1]]
    Manifest.build([f"{name}.mp4" for name in names], labels, ["a", "b"], root=folder).write(folder / "m.csv")
    return folder


def dataset(files, modalities, data=DATA, view=TrainingView, **others):
    return ClipDataset(open_footage(files / "m.csv"), view(data, modalities=modalities, **others), seed=3)


def test_every_modality_is_the_same_alone_and_beside_others(files):
    whole = dataset(files, ALL)[2, 0, 0]
    assert whole["present"].tolist() == [True, True, True]
    assert {name: tuple(whole[name].shape) for name in ("video", "flow", "waveform")} == {
        "video": (1, 4, 3, 32, 32), "flow": (1, 4, 2, 32, 32), "waveform": (1, 8000),
    }  # fmt: skip
    for modality, name in (("rgb", "video"), ("audio", "waveform")):
        assert torch.equal(dataset(files, (modality,))[2, 0, 0][name], whole[name])
    assert torch.equal(dataset(files, ("rgb", "flow"))[2, 0, 0]["flow"], whole["flow"])


@pytest.mark.parametrize(("row", "present"), [(1, [1, 0, 1]), (2, [1, 1, 0]), (3, [1, 1, 0])])
def test_a_missing_track_is_a_flag_and_changes_no_other(files, row, present):
    item = dataset(files, ALL)[0, row, 0]
    assert item["present"].int().tolist() == present
    assert not item["waveform"].any() or present[2]
    assert (item["flow"] == 128).all() or present[1]
    if row != 1:  # the same clip with sound, by the same draws
        source = FileSource("heard", open_media(files / "heard.mp4"))
        data, clips = dataset(files, ALL), dataset(files, ALL)
        clips.footage.open = lambda _: source
        heard = clips[0, row, 0]
        assert heard["present"].all()
        assert torch.equal(heard["video"], data[0, row, 0]["video"])
        assert torch.equal(heard["flow"], data[0, row, 0]["flow"])


def test_flow_is_cropped_and_flipped_like_the_pictures(files):
    """A horizontal ramp as picture, and a flow whose x is that ramp: they must stay equal but for the sign."""
    view = TrainingView(DATA.model_copy(update={"gain": 0.0}), ("rgb", "flow"))
    seen = set()

    class Ramp:
        num_frames, fps, has_audio, has_flow, path = 20, 10.0, False, True, "ramp"

        def keep(self, indices, flow):
            pass

        def frames_at(self, indices):
            self.frames = torch.zeros(len(indices), 3, 48, 64, dtype=torch.uint8)
            self.frames[:, 0] = torch.arange(1, 65)
            self.frames[:, 1] = torch.arange(1, 49)[:, None]
            self.frames[:, 2] = torch.tensor(indices)[:, None, None]
            return self.frames

        def flow_at(self, indices, flow):
            return torch.stack([self.frames[:, 0] + 128, self.frames[:, 1] + 128], 1)

    for seed in range(24):
        found = look(view, Ramp(), generator(seed))
        video, flow = found.inputs["video"][0].int(), found.inputs["flow"][0].int() - 128
        x, y = video[:, 0], video[:, 1]
        horizontal, time = "horizontal" in found.applied, "time" in found.applied
        sign_x, sign_y = (-1 if horizontal != time else 1), (-1 if time else 1)
        assert (flow[:, 0] - sign_x * x).abs().max() <= 1  # resized, and rounded, on both sides of zero
        assert (flow[:, 1] - sign_y * y).abs().max() <= 1
        order = video[:, 2, 0, 0]
        assert (order.diff() < 0).all() if time else (order.diff() > 0).all()
        seen.add((horizontal, time))
    assert len(seen) == 4


def test_colours_change_pictures_alone(files):
    plain = dataset(files, ("rgb", "flow"), DATA.model_copy(update={"gain": 0.0}))[0, 0, 0]
    gained = dataset(files, ("rgb", "flow"))[0, 0, 0]
    assert torch.equal(plain["flow"], gained["flow"])
    assert not torch.equal(plain["video"], gained["video"])


def test_test_views_hear_even_crops_beside_their_pictures(files):
    test = TestSection(clips=3, crops=3)
    view = TestView(DATA, test, ALL)
    with open_footage(files / "m.csv").open(0) as source:
        seen = look(view, source, generator())
        sound = source.waveform(16000)
    assert {name: tuple(each.shape) for name, each in seen.inputs.items()} == {
        "video": (9, 4, 3, 32, 32), "flow": (9, 4, 2, 32, 32), "waveform": (9, 8000),
    }  # fmt: skip
    for clip in range(3):
        for crop in range(3):
            assert torch.equal(seen.inputs["waveform"][3 * clip + crop], sound[12000 * clip : 12000 * clip + 8000])
    without = TestView(DATA, test, ALL, without=["audio", "flow"])
    with open_footage(files / "m.csv").open(0) as source:
        blind = look(without, source, generator())
    assert blind.present == (True, False, False)
    assert torch.equal(blind.inputs["video"], seen.inputs["video"])


def test_a_model_of_sound_leaves_silent_clips_out_and_calls_none_bad(files):
    items = [dataset(files, ("audio",))[0, row, 0] for row in range(4)]
    batch = collate(items)
    assert batch["rows"].tolist() == [0, 1]
    assert (batch["absent"], batch["bad"]) == ([2, 3], [])
    assert batch["waveform"].shape == (2, 1, 8000)
    assert batch["present"].tolist() == [[True], [True]]
    quieter = DATA.model_copy(update={"audio": AudioSection(silence_db=-5.0)})
    assert "absent" in dataset(files, ("audio",), quieter)[0, 0, 0]  # the tone is at -11 dB
    empty = collate(items[2:])
    assert (len(empty["rows"]), empty["absent"]) == (0, [2, 3])


def test_a_sound_file_is_bad_for_pictures_and_has_them_missing_beside_sound(files, tmp_path):
    tone = (8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    Manifest.build(["tone.wav"], [[0]], ["a", "b"], root=tmp_path).write(tmp_path / "m.csv")
    assert dataset(tmp_path, ("rgb",))[0, 0, 0]["bad"]["reason"] == "not_video"
    item = dataset(tmp_path, ALL)[0, 0, 0]
    assert item["present"].tolist() == [False, False, True]
    assert item["video"].shape == (1, 4, 3, 32, 32)


def test_gain_is_drawn_around_none(files):
    loud = [dataset(files, ("audio",))[epoch, 0, 0]["waveform"] for epoch in range(40)]
    plain = dataset(files, ("audio",), DATA.model_copy(update={"audio": AudioSection(seconds=0.5)}))
    gains = torch.tensor(
        [
            float(20 * (one.square().mean().sqrt() / plain[epoch, 0, 0]["waveform"].square().mean().sqrt()).log10())
            for epoch, one in enumerate(loud)
        ]
    )
    assert float(gains.abs().max()) <= 6.0001
    assert float(gains.max()) > 4
    assert float(gains.min()) < -4


def test_sounds_are_mixed_by_how_loud_they_are_heard_and_amplified_afterwards(files):
    clips = dataset(files, ("rgb", "audio"))
    mixed = MixedClips(clips, [0, 1], MixSection(name="between_class"))
    key = (0, 0, 0)
    item = mixed[key]
    ratio = float(item["targets"][0])
    assert float(item["targets"][1]) == pytest.approx(1 - ratio)
    asked = []
    plain = clips.as_recorded
    clips.as_recorded = lambda key: asked.append(key) or plain(key)
    mixed[key]
    first, second = (plain(each) for each in asked)
    expected = mix_sounds(first["waveform"][0], second["waveform"][0], ratio, 16000)
    expected = clips.amplified({"waveform": expected[None]}, key)["waveform"]
    torch.testing.assert_close(item["waveform"], expected)
    assert (item["video"].float() - ratio * first["video"] - (1 - ratio) * second["video"]).abs().max() <= 0.5 + 1e-4


def test_a_sound_mixed_with_none_stays_what_it_is(files):
    clips = dataset(files, ("rgb", "audio"))
    mixed = MixedClips(clips, [3], MixSection(name="mixup"))  # the partner is silent
    item, own = mixed[0, 0, 0], clips[0, 0, 0]
    assert item["present"].tolist() == [True, True]
    assert torch.equal(item["waveform"], own["waveform"])
    assert not torch.equal(item["video"], own["video"])
    silent = MixedClips(clips, [0], MixSection(name="mixup"))[0, 3, 0]
    assert silent["present"].tolist() == [True, True]
    alone = MixedClips(dataset(files, ("audio",)), [3], MixSection(name="mixup"))[0, 0, 0]
    assert alone["targets"].tolist() == [1, 0]  # a partner that says nothing leaves the clip as it is


def test_one_box_is_pasted_into_pictures_and_flow(files):
    clips = dataset(files, ("rgb", "flow"))
    mixed = MixedClips(clips, [2], MixSection(name="cutmix"))
    asked = []
    plain = clips.as_recorded
    clips.as_recorded = lambda key: asked.append(key) or plain(key)
    checked = 0
    for epoch in range(12):
        asked.clear()
        item = mixed[epoch, 0, 0]
        first, second = (plain(each) for each in asked)
        changed = {name: (item[name] != first[name]).any(2).any(1)[0] for name in ("video", "flow")}  # (H, W)
        same = (item["video"] == second["video"]).all(2).all(1)[0]
        assert bool((~changed["video"] | same).all())
        rows, columns = changed["video"].any(1), changed["video"].any(0)
        assert not changed["flow"][~rows].any()
        assert not changed["flow"][:, ~columns].any()
        checked += bool(changed["flow"].any())
    assert checked > 3


def test_items_are_the_same_in_workers(files):
    clips = dataset(files, ALL)
    keys = in_order(range(4), 2)
    alone, together = (list(make_loader(clips, keys, workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, together, strict=True):
        for name in ("video", "flow", "waveform", "present", "targets"):
            assert torch.equal(one[name], other[name])


def test_packed_clips_give_what_their_files_give(files, tmp_path):
    from reeltag.data.pack import pack

    pack(Manifest.read(files / "m.csv"), tmp_path / "packed", store="raw", short_side_px=56, workers=0)
    packed = ClipDataset(open_footage(tmp_path / "packed"), TrainingView(DATA, ALL), seed=3)
    for row in range(4):
        one, other = packed[1, row, 0], dataset(files, ALL)[1, row, 0]
        assert torch.equal(one["present"], other["present"])
        assert torch.equal(one["video"], other["video"])
        assert torch.equal(one["flow"], other["flow"])
        torch.testing.assert_close(one["waveform"], other["waveform"], atol=4e-5, rtol=0)  # 16 bits, 6 dB louder


def test_stored_flow_is_found_by_the_clip_and_used_for_it(files, tmp_path):
    from reeltag.data.flow_clip import FlowSettings
    from reeltag.data.flow_store import write_flow
    from reeltag.data.pack import pack
    from reeltag.data.shards import PackedVideos

    pack(Manifest.read(files / "m.csv"), tmp_path / "packed", store="raw", short_side_px=56, workers=0)
    made = ClipDataset(open_footage(tmp_path / "packed"), TrainingView(DATA, ("rgb", "flow")), seed=3)
    items = [made[1, row, 0] for row in range(4)]
    settings = FlowSettings(method="dis", short_side_px=40)
    write_flow(PackedVideos(tmp_path / "packed"), tmp_path / "packed" / "flow", settings, workers=0)
    stored = ClipDataset(open_footage(tmp_path / "packed"), TrainingView(DATA, ("rgb", "flow")), seed=3)
    assert stored.footage.flow is not None  # the folder inside the pack
    for row, item in enumerate(items):
        again = stored[1, row, 0]
        assert torch.equal(again["video"], item["video"])
        assert torch.equal(again["flow"], item["flow"])
        assert torch.equal(again["present"], item["present"])
    # Half the rate: field k of the store belongs to frame 2 k of the file. A clip that the store lacks has no flow.
    few = Manifest.read(files / "m.csv").take([0])
    write_flow(few, tmp_path / "half", FlowSettings(method="dis", fps=5.0, short_side_px=56), workers=0)
    footage = open_footage(files / "m.csv", tmp_path / "half")
    with footage.open(0) as source:
        track = footage.flow.flow(0, range(10))
        assert torch.equal(source.flow_at([0, 1, 7, 19], DATA.flow), track[[0, 0, 3, 9]])
        stacked = source.flow_at([6], FlowSection(method="dis", stack=2))
        assert torch.equal(stacked[0], track[[3, 4]].flatten(0, 1))
    with footage.open(2) as source:
        assert not source.has_flow


def test_a_vector_means_the_same_in_a_large_file_and_a_small_pack(files, tmp_path):
    from reeltag.data.pack import pack

    pack(Manifest.read(files / "m.csv"), tmp_path / "packed", store="raw", short_side_px=40, workers=0)
    view = TestView(DATA, TestSection(), ("rgb", "flow"))
    fields = []
    for data in (files / "m.csv", tmp_path / "packed"):
        fields.append(ClipDataset(open_footage(data), view, seed=3)[0, 0, 0]["flow"][0].float() - 128)
    x = [float(field[:, 0, 4:-4, 4:-4].median()) for field in fields]
    # 2 px of 56 rows are 1.43 of 40, and 20 px are 127 steps
    assert x == pytest.approx([-2 * 40 / 56 / 20 * 127] * 2, abs=1.5)
    assert (fields[0] - fields[1]).abs().mean() < 0.5
    assert DATA.at_epoch(0).motion == DATA.motion
    small = {"from_epoch": 0, "crop_px": 16, "num_frames": 4}
    assert DATA.model_copy(update={"stages": [StageSection(**small)]}).at_epoch(0).motion.short_side_px == 40


def test_the_image_form_has_a_third_channel_of_zeros(files):
    data = DATA.model_copy(update={"flow": FlowSection(method="dis", form="image", bound_px=40.0)})
    for view in (TrainingView(data, ("flow",)), TestView(data, TestSection(), ("flow",))):
        clips = ClipDataset(open_footage(files / "m.csv"), view, seed=3)
        item = clips[0, 0, 0]
        assert item["flow"].shape == (1, 4, 3, 32, 32)
        assert not item["flow"][:, :, 2].any()
        assert item["flow"][:, :, :2].float().mean() > 100
        assert "absent" in clips[0, 1, 0]  # a single frame


def test_a_manifest_without_split_keeps_its_flow(files):
    from reeltag.data.splitting import with_splits

    footage = open_footage(files / "m.csv")
    footage.flow = SimpleNamespace(manifest=footage.manifest)
    split, _ = with_splits(footage)
    assert isinstance(split, FileFootage)
    assert split.flow is footage.flow
