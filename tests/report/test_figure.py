"""The figure of clips: which ones, their predictions with index and verdict, every format, and what is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from reeltag.errors import StoreError
from reeltag.report.figure import write_figure
from reeltag.store.scores import Scores


def frames_of(video_id):
    return None if video_id.startswith("clips/05") else np.full((3, 24, 32, 3), 200, np.uint8)


def test_six_predictions_with_their_index_and_colour(scores, tmp_path):
    from matplotlib import rcParams

    before = rcParams["svg.fonttype"]
    rcParams["svg.fonttype"] = "none"  # letters stay letters
    try:
        path = write_figure(tmp_path / "f.svg", scores, frames_of, num_clips=4)
    finally:
        rcParams["svg.fonttype"] = before
    text = path.read_text()
    found = re.findall(r"fill: (#\w{6})[^>]*>([^<]+)\((\d)\)  ([01]\.\d\d)<", text)
    assert len(found) == 4 * 5  # there are but five labels
    by_name = {name.replace("&amp;", "&"): (color, int(index)) for color, name, index, _ in found}
    assert by_name["never"] == ("#b3261e", 4)  # which no clip carries
    assert {color for color, *_ in found} == {"#147a46", "#b3261e"}
    assert "<script>" not in text


def test_pictures_of_the_usual_formats_are_written_whole(scores, tmp_path):
    path = write_figure(tmp_path / "f.png", scores, frames_of)
    with Image.open(path) as picture:
        assert picture.size == (1350, round(150 * 1.9 * 6))
        assert (np.asarray(picture.convert("RGB")) == 200).all(-1).mean() > 0.1  # the grey frames
    assert write_figure(tmp_path / "f.pdf", scores, None, num_clips=2).read_bytes().startswith(b"%PDF")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f.pdf", "f.png"]


def test_what_cannot_be_drawn_is_refused(scores, tmp_path):
    with pytest.raises(StoreError, match=r"f.gif is no figure that can be written; .* .png, .pdf, .svg"):
        write_figure(tmp_path / "f.gif", scores, None)
    blind = Scores(["a"], np.zeros((1, 2), np.float32), ["x", "y"], "logit")
    with pytest.raises(StoreError, match="no clip has labels"):
        write_figure(tmp_path / "f.png", blind, None)
    assert not list(tmp_path.iterdir())
