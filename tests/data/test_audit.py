import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from reeltag.data.audit import check_manifest
from reeltag.data.fingerprint import Look, clusters, near_duplicates
from reeltag.data.manifest import Manifest
from reeltag.data.split import split_manifest


def encode_again(source: Path, target: Path) -> None:
    """Write the pictures of a video again at a lower quality."""
    with av.open(str(source)) as old, av.open(str(target), "w", format="mp4") as new:
        stream = new.add_stream("libx264", rate=12, options={"crf": "28", "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in old.decode(video=0):
            new.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        new.mux(stream.encode())


@pytest.fixture(scope="module")
def checked(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("audit")
    for seed, name in enumerate(["a", "b", "c", "d"]):
        make_video(folder / f"{name}.mp4", seed=seed, num_frames=24, sound=name == "a")
    shutil.copy(folder / "a.mp4", folder / "copy.mp4")
    encode_again(folder / "b.mp4", folder / "small.mp4")
    (folder / "text.mp4").write_text("no video in here, only words " * 20)
    (folder / "empty.mp4").touch()
    data = (folder / "d.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    nan = float("nan")
    rows = [
        ("a.mp4", [0], "train", "", nan), ("copy.mp4", [0, 1], "test", "", nan), ("b.mp4", [0], "train", "", nan),
        ("small.mp4", [0], "val", "", nan), ("c.mp4", [0, 1], "train", "g", nan), ("d.mp4", [0], "val", "g", 0.0),
        ("d.mp4", [], "train", "", 1.0), ("text.mp4", [0], "train", "", nan), ("empty.mp4", [0], "val", "", nan),
        ("gone.mp4", [0], "test", "", nan), ("cut.mp4", [0], "test", "", nan),
    ]  # fmt: skip
    paths, labels, splits, groups, starts = zip(*rows, strict=True)
    manifest = Manifest.build(
        paths, labels, ["x", "y", "never"], root=folder, splits=splits, groups=groups, start_s=starts,
        ignores=[[1]] + [[]] * 10,
    )  # fmt: skip
    done: list[tuple[int, int]] = []
    audit = check_manifest(manifest, workers=0, progress=lambda *args: done.append(args))
    assert done == [(n, 10) for n in range(1, 11)]
    return manifest, audit


def test_unreadable_files_are_listed_by_reason(checked):
    _, audit = checked
    found = {line["path"]: line["reason"] for line in audit.unreadable}
    assert found.pop("cut.mp4") in ("truncated", "corrupt")
    assert found == {"text.mp4": "not_media", "empty.mp4": "empty", "gone.mp4": "not_found"}
    assert audit.bad_share == pytest.approx(4 / 11)
    assert sum(audit.reasons.values()) == 4
    assert (audit.clips, audit.files, audit.audio_share) == (11, 10, pytest.approx(2 / 6))
    assert audit.duration_s == pytest.approx(6 * 2, rel=0.01)


def test_duplicates_and_leaks_are_exactly_the_planted_ones(checked):
    _, audit = checked
    assert audit.duplicates == [["a.mp4", "copy.mp4"]]
    assert audit.near_duplicates == [["b.mp4", "small.mp4"]]
    assert {leak.kind: leak.clips for leak in audit.leaks} == {
        "file": {"train": ["d@1-"], "val": ["d@0-"]},
        "duplicate": {"test": ["copy"], "train": ["a"]},
        "near_duplicate": {"train": ["b"], "val": ["small"]},
        "group": {"train": ["c"], "val": ["d@0-"]},
    }


def test_a_split_after_the_audit_has_no_leak(checked):
    manifest, audit = checked
    grouped = audit.with_groups(manifest)
    assert grouped.groups[:7] == ("a", "a", "b", "b", "g", "g", "g")
    assert check_manifest(split_manifest(grouped, val=0.3, test=0.3), workers=0).leaks == []
    assert audit.with_groups(replace(manifest, groups=None)).groups[4:7] == ("", "d@0-", "d@0-")


def test_label_statistics(checked):
    _, audit = checked
    assert [(c.label, c.clips, c.unknown) for c in audit.labels] == [("x", 10, 0), ("y", 2, 1), ("never", 0, 0)]
    assert audit.labels[1].by_split == {"test": 1, "train": 1, "val": 0}
    assert (audit.never, audit.always, audit.missing, audit.unlabelled) == (["never"], [], {"val": ["y"]}, 1)
    assert audit.cardinality == pytest.approx(12 / 11)


def test_json_holds_everything(checked):
    _, audit = checked
    value = json.loads(audit.to_json())
    assert value["reasons"] == audit.reasons
    assert value["leaks"][0]["kind"] == "file"
    assert value["bad_share"] == pytest.approx(4 / 11)


def look(n: int, pictures: np.ndarray, duration_s: float = 2.0) -> Look:
    return Look(
        f"/v/{n}", num_bytes=n, sha256=str(n), num_frames=24, duration_s=duration_s, pictures=pictures.astype(np.uint8)
    )


def test_near_duplicates_need_texture_equal_length_and_equal_pictures():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (3, 16, 16))
    noisy = np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255)
    darker = scene * 0.7
    flat = np.full((3, 16, 16), 80)
    looks = [look(0, scene), look(1, noisy), look(2, scene, 3.0), look(3, darker), look(4, flat), look(5, flat)]
    assert near_duplicates(looks) == [[0, 1]]
    assert near_duplicates(looks[4:]) == []
    others = [look(n, rng.integers(0, 256, (3, 16, 16))) for n in range(300)]
    assert near_duplicates(others) == []


def test_clusters_join_chains():
    assert clusters(7, [(5, 1), (1, 3), (0, 6)]) == [[0, 6], [1, 3, 5]]
