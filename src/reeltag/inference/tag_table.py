"""The tags of many videos, and the scores of their windows, as parquet tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reeltag.inference.timeline import Timeline
from reeltag.store.atomic import atomic_path

_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("present", pa.list_(pa.string())),
        ("duration_s", pa.float64()),
        ("damaged", pa.bool_()),
        ("error_reason", pa.string()),
        ("error_message", pa.string()),
    ]
)


def write_tags(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write the lines of `reeltag tag --json` as parquet, one row a video, unreadable ones with their reason."""
    rows = []
    for line in lines:
        labels = line.get("labels", [])
        error = line.get("error", {})
        rows.append(
            {
                "video": line["video"].encode("utf-8", "backslashreplace").decode(),
                "labels": [row["label"] for row in labels],
                "scores": [row["score"] for row in labels],
                "present": [row["label"] for row in labels if row["present"]],
                "duration_s": line.get("duration_s"),
                "damaged": line.get("damaged"),
                "error_reason": error.get("reason"),
                "error_message": error.get("message"),
            }
        )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)


def write_timelines(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write one row a window: video, start_s, end_s and the scores of all labels, in the order of the model.

    The names of the labels stand as a JSON list under `label_names` in the metadata of the schema. NaN is a window that
    has nothing of what the model takes.
    """
    names = timelines[0].label_names if timelines else []
    schema = pa.schema(
        [
            ("video", pa.string()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("scores", pa.list_(pa.float32(), len(names))),
        ],
        metadata={"label_names": json.dumps(names, ensure_ascii=False)},
    )
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for one in timelines:
            values = pa.array(one.scores.reshape(-1), pa.float32())
            columns = [
                pa.array([one.tags.video.encode("utf-8", "backslashreplace").decode()] * len(one.scores)),
                pa.array(one.windows.times_s[:, 0]),
                pa.array(one.windows.times_s[:, 1]),
                pa.FixedSizeListArray.from_arrays(values, len(names)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
