"""RAFT from a weights file: read without pickle, sent to workers as a path, stored like any other method."""

import pickle

import pytest
import torch
from torchvision.models import optical_flow

from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import FlowStore, write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.pack_clip import shrink
from reeltag.errors import StoreError
from reeltag.inference.network_flow import NetworkFlow
from reeltag.media import open_video
from reeltag.media.flow import quantise
from reeltag.models.adapters.raft import raft
from reeltag.store.atomic import sha256_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(optical_flow.raft_small().state_dict(), path)
    return path


@torch.inference_mode()
def test_stored_flow_is_that_of_the_network(weights, mini_manifest, tmp_path):
    function = NetworkFlow(weights, "cpu")
    assert function.digest == sha256_of(weights)
    settings = FlowSettings(method="raft", weights=function.digest, bound_px=400.0, short_side_px=40, max_frames=2)
    clips = Manifest.read(mini_manifest).take([0])
    write_flow(clips, tmp_path, settings, function=function, workers=0)
    store = FlowStore(tmp_path)
    with open_video(clips.video_path(0)) as video:
        frames = [shrink(video.frames_at([first, first + 1]), 40) for first in store.info(0)["frames"]]
    pairs = torch.stack(frames)  # (2, 2, 3, H, W)
    expected = raft(torch.load(weights, weights_only=True))(pairs[:, 0], pairs[:, 1])
    assert torch.equal(store.flow(0, [0, 1]), quantise(expected, 400.0))
    assert store.flow(0, [0, 1]).int().sub(128).abs().max() > 5
    assert store.settings["weights"] == sha256_of(weights)


def test_what_travels_is_the_path(weights):
    function = NetworkFlow(weights, "cpu")
    data = pickle.dumps(function)
    assert len(data) < 2000
    frames = torch.randint(256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    twin = pickle.loads(data)
    torch.testing.assert_close(twin(frames[:1], frames[1:]), function(frames[:1], frames[1:]), rtol=0, atol=0)


def test_files_that_are_no_weights_are_refused(weights, tmp_path):
    with pytest.raises(StoreError, match="is not a file; give the weights that torchvision publishes"):
        NetworkFlow(tmp_path / "none.pth", "cpu")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(StoreError, match="linear.pth: the weights are not those of torchvision's raft_small"):
        NetworkFlow(tmp_path / "linear.pth", "cpu")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "objects.pth")
    with pytest.raises(StoreError, match="cannot be read as weights alone"):
        NetworkFlow(tmp_path / "objects.pth", "cpu")
