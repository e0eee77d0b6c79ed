"""`reeltag bench features`: pooling beside a loop over clusters, records beside plain Python, memory of a step."""

from __future__ import annotations

import json
import os
import platform
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.bench import BENCHES
from reeltag.bench.step_memory import measure_step
from reeltag.data.crc32c import byte_table
from reeltag.data.youtube8m import VideoRecord, dequantize, read_shard, write_shard
from reeltag.layers.frames import l2_normalize
from reeltag.layers.netfv import NetFV
from reeltag.layers.netvlad import NetVLAD, assign_softly, intra_then_whole_norm

BATCH, FRAMES, DIM, CLUSTERS = 8, 300, 1024, 256


def one_column_at_a_time(pool: NetVLAD | NetFV, x: Tensor) -> Tensor:
    """Return the soft assignments (B, T, K), each cluster's scores from a product of its own."""
    columns = [x @ weight for weight in pool.assign.linear.weight]
    scores = torch.stack(columns, dim=-1)
    return assign_softly(scores if pool.assign.norm is None else pool.assign.norm(scores, None), None)


def netvlad_by_cluster(pool: NetVLAD, x: Tensor) -> Tensor:
    """Return what `NetVLAD` computes as its equation is written: per cluster, weighted residuals and their sum."""
    assign = one_column_at_a_time(pool, x)
    sums = [(assign[..., k, None] * (x - pool.centers[k])).sum(1) for k in range(len(pool.centers))]
    return intra_then_whole_norm(torch.stack(sums, dim=-1))  # (B, D * K)


def netfv_by_cluster(pool: NetFV, x: Tensor) -> Tensor:
    """Return what `NetFV` computes: per cluster, the weighted first and second order residuals and their sums."""
    assert pool.centers is not None
    assign = one_column_at_a_time(pool, x)
    first, second = [], []
    for k, (center, covar) in enumerate(zip(pool.centers, pool.covar_weights, strict=True)):
        residual = (x - center) / (covar.square() + 1e-6)
        first.append((assign[..., k, None] * residual).sum(1))
        second.append((assign[..., k, None] * (residual.square() - 1)).sum(1))
    whole = l2_normalize(torch.stack(second, dim=-1).flatten(1))
    return torch.cat([intra_then_whole_norm(torch.stack(first, dim=-1)), whole], dim=1)


def products_alone(pool: NetVLAD | NetFV, x: Tensor, assign: Tensor) -> None:
    """Compute the matrix products of a pooling and nothing else: scores, sums, and for NetFV the sums of squares."""
    weight = pool.assign.linear.weight
    torch.mm(x.flatten(0, 1), weight.t())
    torch.bmm(x.transpose(1, 2), assign)
    if isinstance(pool, NetFV):
        torch.bmm(x.transpose(1, 2), assign)


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def pooling_speed(rounds: int) -> list[dict[str, Any]]:
    """Return, for NetVLAD and NetFV, the times of the layer, its matrix products and a loop, and medians of ratios."""
    x = torch.randn(BATCH, FRAMES, DIM, generator=torch.Generator().manual_seed(0))
    vlad, fisher = NetVLAD(DIM, CLUSTERS).eval(), NetFV(DIM, CLUSTERS).eval()
    with torch.inference_mode():
        return [
            _beside(vlad, partial(netvlad_by_cluster, vlad, x), x, rounds),
            _beside(fisher, partial(netfv_by_cluster, fisher, x), x, rounds),
        ]


def _beside(pool: NetVLAD | NetFV, loop: Callable[[], Tensor], x: Tensor, rounds: int) -> dict[str, Any]:
    layer: Callable[[], Tensor] = partial(pool, x)
    products = partial(products_alone, pool, x, assign_softly(pool.assign(x, None), None))
    expected = layer()
    difference = float((loop() - expected).abs().max() / expected.square().mean().sqrt())
    if not difference < 1e-3:
        raise AssertionError(f"the loop and {type(pool).__name__} differ by {difference:.1e} of the scale")
    times: dict[str, list[float]] = {"products": [], "layer": [], "loop": []}
    for number in range(2 * rounds):  # one beside the other, so that a busy machine slows all of them
        times["products"].append(seconds(products))
        times["layer"].append(seconds(layer))
        if number < max(1, rounds // 5):
            times["loop"].append(seconds(loop))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = [ours / theirs for ours, theirs in zip(times["layer"], times["products"], strict=True)]
    return {
        "layer": type(pool).__name__,
        "shape": {"B": BATCH, "T": FRAMES, "F": DIM, "K": CLUSTERS},
        "ms": round(median["layer"] * 1e3, 2),
        "products_ms": round(median["products"] * 1e3, 2),
        "loop_ms": round(median["loop"] * 1e3, 1),
        "times_of_products": round(statistics.median(ratios), 3),
        "faster_than_loop": round(median["loop"] / median["layer"], 1),
        "largest_difference_of_scale": float(f"{difference:.1e}"),
    }


def python_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a base-128 number and the place behind it, a byte at a time."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def python_message(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a message by number, as a plain protocol-buffer reader does."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        tag, place = python_varint(data, place)
        value, place = python_varint(data, place)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(data[place : place + value])
            place += value
        else:
            found.setdefault(tag >> 3, []).append(value)
    return found


def python_checksum(data: bytes) -> int:
    """Return the CRC-32C of some bytes, a byte at a time by the usual table."""
    table, value = byte_table(), 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def python_shard(path: Path, check: bool) -> Iterator[VideoRecord]:
    """Yield the videos of a frame-level shard, parsed by field in plain Python; checksums on request."""
    raw, place = path.read_bytes(), 0
    while place < len(raw):
        (size,) = struct.unpack_from("<Q", raw, place)
        data = raw[place + 12 : place + 12 + size]
        if check:
            value = python_checksum(data)
            masked = (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            if masked != struct.unpack_from("<I", raw, place + 12 + size)[0]:
                raise AssertionError("the plain reader found another checksum")
        place += size + 16
        whole = python_message(data)
        context = {entry[1][0]: python_message(entry[2][0]) for entry in _entries(whole[1][0])}
        labels, at = [], 0
        packed = python_message(context[b"labels"][3][0])[1][0]
        while at < len(packed):
            label, at = python_varint(packed, at)
            labels.append(label)
        features: dict[str, NDArray[Any]] = {}
        for entry in _entries(whole[2][0]):
            frames = [python_message(frame)[1][0] for frame in python_message(entry[2][0])[1]]
            features[entry[1][0].decode()] = np.stack(
                [np.frombuffer(python_message(f)[1][0], dtype=np.uint8) for f in frames]
            )
        name = python_message(context[b"id"][1][0])[1][0].decode()
        yield VideoRecord(name, np.array(labels, dtype=np.int64), features)


def _entries(features: bytes) -> list[dict[int, list[Any]]]:
    return [python_message(entry) for entry in python_message(features)[1]]


def write_example_shard(path: Path, videos: int, seed: int = 0) -> None:
    """Write a shard of drawn videos of 120 to 300 frames with the streams of YouTube-8M."""
    random = np.random.default_rng(seed)

    def video(number: int) -> VideoRecord:
        frames = int(random.integers(120, 301))
        streams = {
            name: random.integers(0, 256, (frames, size), np.uint8) for name, size in (("rgb", 1024), ("audio", 128))
        }
        return VideoRecord(f"v{number:03d}", np.unique(random.integers(0, 3862, 4)), streams)

    write_shard(path, (video(number) for number in range(videos)))


def same_videos(ours: list[VideoRecord], theirs: list[VideoRecord]) -> bool:
    """Return whether two readers gave the same ids, labels and features."""
    return len(ours) == len(theirs) and all(
        a.video_id == b.video_id
        and np.array_equal(a.labels, b.labels)
        and all(np.array_equal(a.features[name], b.features[name]) for name in b.features)
        for a, b in zip(ours, theirs, strict=True)
    )


def reading_speed(rounds: int, videos: int = 24) -> dict[str, Any]:
    """Return the CPU times a video of both readers and the medians of their ratios; ours always compares checksums."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.tfrecord"
        write_example_shard(path, videos)
        readers: dict[str, Callable[[], list[VideoRecord]]] = {
            "reeltag": lambda: list(read_shard(path)),
            "python": lambda: list(python_shard(path, False)),
        }
        if not same_videos(readers["reeltag"](), list(python_shard(path, True))):
            raise AssertionError("the two readers do not agree")
        times: dict[str, list[float]] = {"reeltag": [], "python": [], "dequantize": []}
        for _ in range(rounds):
            for name, reader in readers.items():
                started = time.process_time()
                found = reader()
                times[name].append((time.process_time() - started) / videos)
            started = time.process_time()
            for video in found:
                for values in video.features.values():
                    dequantize(values)
            times["dequantize"].append((time.process_time() - started) / videos)
        started = time.process_time()
        list(python_shard(path, True))
        checked = (time.process_time() - started) / videos
        megabytes = path.stat().st_size / 1e6 / videos
    ms = {name: round(statistics.median(values) * 1e3, 3) for name, values in times.items()}
    pairs = list(zip(times["reeltag"], times["python"], times["dequantize"], strict=True))
    return {
        "what": "CPU time a video of a drawn shard, file to uint8 (T, 1024) and (T, 128); ours checks all CRCs",
        "videos": videos,
        "megabytes_a_video": round(megabytes, 3),
        "reeltag_ms": ms["reeltag"],
        "python_ms_without_checksums": ms["python"],
        "python_ms_with_checksums": round(checked * 1e3, 2),
        "dequantize_ms": ms["dequantize"],
        "faster_than_python_without_checksums": round(statistics.median(p / r for r, p, _ in pairs), 2),
        "faster_with_dequantizing_in_both": round(statistics.median((p + d) / (r + d) for r, p, d in pairs), 2),
        "faster_than_python_with_checksums": round(checked / statistics.median(times["reeltag"]), 1),
        "megabytes_a_second": round(megabytes / statistics.median(times["reeltag"])),
    }


@BENCHES.register("features")
def run(rounds: int = 11, memory: bool = True, device: str = "cpu", out: str | None = None) -> dict[str, Any]:
    """Measure pooling, record reading and the memory of one training step; print and write the result.

    Pooling and reading run on one thread. The step needs about 6 GiB.

    Args:
        rounds: pairs of every comparison.
        memory: also measure the training step.
        device: of the training step.
        out: the JSON file; None writes none.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result: dict[str, Any] = {"pooling": pooling_speed(rounds), "reading": reading_speed(rounds)}
    finally:
        torch.set_num_threads(threads)
    if memory:
        result["step_memory"] = [measure_step(device=device, masked=masked) for masked in (False, True)]
    result |= {
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    text = json.dumps(result, indent=1)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return result
