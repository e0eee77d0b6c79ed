"""`reeltag bench models`: speed of our video networks beside torchvision's and PyTorchVideo's own, in one run."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from reeltag.bench import BENCHES
from reeltag.bench.models_gpu import gpu_rows
from reeltag.build import create_model
from reeltag.data.footage import open_footage
from reeltag.errors import RecipeError, ReeltagError
from reeltag.hardware import resolve_precision
from reeltag.hub.published import from_published
from reeltag.inference.evaluate import evaluate
from reeltag.inference.load import load_trained
from reeltag.store.atomic import write_json

PARTS = ("speed", "overhead", "agreement", "gpu")
Call = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """A network of another library, and how it is fed.

    Attributes:
        library: the package, which is also our name of the source of its weights.
        name: our name of the network.
        build: the peer's own, from its package and the side of the clip in pixels.
        feed: a float clip (B, 3, T, H, W) as the peer takes it.
        clip: (T, side) of the measurement.
    """

    library: str
    name: str
    build: Callable[[int], nn.Module]
    feed: Callable[[Tensor], Any]
    clip: tuple[int, int]


def _torchvision_r2plus1d(side: int) -> nn.Module:
    network: nn.Module = importlib.import_module("torchvision.models.video").r2plus1d_18(weights=None)
    return network


def _pytorchvideo_slowfast(side: int) -> nn.Module:
    hub = importlib.import_module("pytorchvideo.models.hub")
    last = -(-side // 32)  # the window of its head is fixed when it is built
    network: nn.Module = hub.slowfast_r50(head_pool_kernel_sizes=((8, last, last), (32, last, last)))
    return network


def _two_paths(clip: Tensor) -> list[Tensor]:
    """Return PyTorchVideo's two inputs: a quarter of the frames, evenly spaced and rounded down, and all of them."""
    frames = clip.shape[2]
    return [clip[:, :, torch.linspace(0, frames - 1, frames // 4).long()].contiguous(), clip]


PEERS = (
    Peer("torchvision", "r2plus1d_18", _torchvision_r2plus1d, lambda clip: clip, (16, 112)),
    Peer("pytorchvideo", "slowfast_r50", _pytorchvideo_slowfast, _two_paths, (32, 112)),
)


def paired_seconds(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; each is called once before, and the order turns each round."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        calls[name]()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the ratios of pairs."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _fresh(inputs: Any) -> Any:
    """Return a list of inputs as a new list: PyTorchVideo writes into the one that it is given."""
    return list(inputs) if isinstance(inputs, list) else inputs


def forward_call(model: nn.Module, inputs: Any, bf16: bool) -> Call:
    """Return a call of one forward pass in evaluation mode."""

    def call() -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(_fresh(inputs))

    return call


def training_call(model: nn.Module, inputs: Any, bf16: bool) -> Call:
    """Return a call of one forward and backward pass in training mode."""

    def call() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(_fresh(inputs))
        logits.float().square().mean().backward()

    return call


def beside_peer(peer: Peer, rounds: int, batch: int, *, clip: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return speed beside a peer's network with the same weights: ours as it runs by default, theirs in fp32 and bf16.

    Ours takes uint8 frames and normalises them inside; the peer gets floats that are ready. bf16 is used where the
    hardware multiplies it, as by default.
    """
    frames, side = clip or peer.clip
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    torch.manual_seed(0)
    theirs = peer.build(side)
    ours = from_published(theirs.state_dict(), peer.library, peer.name)
    pixels = torch.randint(0, 256, (batch, frames, 3, side, side), dtype=torch.uint8)
    floats = ours.norm(pixels).contiguous()
    fed = peer.feed(floats.transpose(1, 2).contiguous())
    with torch.inference_mode():
        expected = theirs.eval()(_fresh(fed))
        apart = (ours.eval()(floats) - expected).abs().max() / expected.std()
    row: dict[str, Any] = {
        "network": peer.name,
        "peer": peer.library,
        "clip": [batch, frames, side, side],
        "ours": "bf16" if bf16 else "fp32",
        "largest_difference_in_fp32_over_std": float(f"{apart.item():.2g}"),
    }
    for what, call in (("forward", forward_call), ("forward_backward", training_call)):
        seconds = paired_seconds(
            {"ours": call(ours, pixels, bf16), "peer": call(theirs, fed, False), "peer_bf16": call(theirs, fed, True)},
            rounds,
        )
        row[what] = {
            "ours_ms": round(statistics.median(seconds["ours"]) * 1e3, 1),
            "times_faster_than_peer_fp32": round(median_ratio(seconds["peer"], seconds["ours"]), 2),
            "times_faster_than_peer_bf16": round(median_ratio(seconds["peer_bf16"], seconds["ours"]), 2),
            "peer_bf16_over_its_fp32": round(median_ratio(seconds["peer"], seconds["peer_bf16"]), 2),
        }
    return row


def overhead(rounds: int, batch: int, *, backbone: str = "resnet50", side: int = 224) -> dict[str, Any]:
    """Return what TSM and TIN cost on top of TSN, in percent of its time: 8 frames, our default precision."""
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    pixels = torch.randint(0, 256, (batch, 8, 3, side, side), dtype=torch.uint8)
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {}
    for name in ("tsn", "tsm", "tin"):
        model = create_model(f"{name}_{backbone}", num_labels=313, num_frames=8)
        models[name] = model.to(memory_format=torch.channels_last)
    row: dict[str, Any] = {"backbone": backbone, "clip": [batch, 8, side, side], "ours": "bf16" if bf16 else "fp32"}
    for what, call in (("forward", forward_call), ("forward_backward", training_call)):
        seconds = paired_seconds({name: call(model, pixels, bf16) for name, model in models.items()}, rounds)
        row[what] = {"tsn_ms": round(statistics.median(seconds["tsn"]) * 1e3, 1)}
        for name in ("tsm", "tin"):
            row[what][f"{name}_percent"] = round(100 * (median_ratio(seconds[name], seconds["tsn"]) - 1), 2)
    return row


def agreement(run: str, data: str, split: str) -> dict[str, Any]:
    """Return how often bf16 and fp32 give a trained model's clips the same best label, on the CPU."""
    loaded = load_trained(run, device="cpu")
    footage, scores = open_footage(Path(data)), []
    for bf16 in (False, True):

        def autocast(enabled: bool = bf16) -> Any:
            return torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext()

        scores.append(evaluate(replace(loaded, autocast=autocast), footage, split=split).scores.values)
    same = scores[0].argmax(1) == scores[1].argmax(1)
    return {
        "model": loaded.trained.recipe.model.name,
        "split": split,
        "clips": len(same),
        "top_1_agreement_percent": round(100 * float(same.mean()), 2),
        "largest_difference_of_probability": round(float(abs(scores[0] - scores[1]).max()), 4),
    }


@BENCHES.register("models")
def models(
    rounds: int = 5,
    batch: int = 1,
    parts: str | None = None,
    peers: str | None = None,
    run: str | None = None,
    data: str | None = None,
    split: str = "all",
    out: str | None = None,
) -> dict[str, Any]:
    """Measure and print; every ratio is the median over pairs that ran one after the other in this run.

    Args:
        rounds: pairs; 5 is what the claims are stated for.
        batch: clips a pass on the CPU.
        parts: of `PARTS`, with commas between; None takes all that have what they need.
        peers: a folder that holds PyTorchVideo and what it imports; None takes installed packages.
        run: a trained run folder or bundle, for the agreement of bf16 with fp32.
        data: its packed clips or manifest.
        split: which of them; 500 clips or more say something about one percent.
        out: a JSON file to write as well.

    Raises:
        RecipeError: no such part.
        ReeltagError: a part lacks what it needs.
    """
    chosen = _chosen(parts, run, data)
    if peers is not None:
        sys.path.insert(0, str(Path(peers).resolve()))
    result: dict[str, Any] = {}
    if "speed" in chosen:
        result["speed"] = [_row(peer, rounds, batch, needed=parts is not None) for peer in PEERS]
    if "overhead" in chosen:
        result["overhead"] = overhead(rounds, batch)
    if "agreement" in chosen:
        result["agreement"] = agreement(str(run), str(data), split)
    if "gpu" in chosen:
        result["gpu"] = gpu_rows(rounds)
    result["machine"] = {
        "platform": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "rounds": rounds,
    }
    if out:
        write_json(Path(out), result)
    Console(highlight=False).print_json(json.dumps(result))
    return result


def _chosen(parts: str | None, run: str | None, data: str | None) -> list[str]:
    if parts is None:
        has = {"agreement": bool(run and data), "gpu": torch.cuda.is_available()}
        return [part for part in PARTS if has.get(part, True)]
    chosen = parts.split(",")
    for part in chosen:
        if part not in PARTS:
            raise RecipeError(f"bench models has no part {part!r}; it has {', '.join(PARTS)}")
    if "agreement" in chosen and not (run and data):
        raise ReeltagError("the agreement of bf16 with fp32 needs run=RUN and data=PACKED of a trained model")
    if "gpu" in chosen and not torch.cuda.is_available():
        raise ReeltagError("this machine shows no GPU to torch; leave the part gpu out")
    return chosen


def _row(peer: Peer, rounds: int, batch: int, *, needed: bool) -> dict[str, Any]:
    """Return the row of a peer, or, unless it is `needed`, that the library is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what an old library says about a new torch
            peer.build(peer.clip[1])
    except ImportError as error:
        reason = f"{error.name} is missing; give the folder that holds it with peers=DIR"
        if needed:
            raise ReeltagError(reason) from None
        return {"network": peer.name, "peer": peer.library, "left_out": reason}
    return beside_peer(peer, rounds, batch)
