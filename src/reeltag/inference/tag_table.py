"""The tags of many videos as one parquet table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
