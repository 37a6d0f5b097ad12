"""Delta tables as other writers make them: by hand from the protocol, JSON log and Parquet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

Action = dict[str, Any]
TYPES = {
    "int64": "long",
    "int32": "integer",
    "double": "double",
    "string": "string",
    "bool": "boolean",
    "date32[day]": "date",
    "timestamp[us, tz=UTC]": "timestamp",
    "timestamp[us]": "timestamp_ntz",
}
OLD: Action = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
ROWS = pa.table({"id": pa.array([1, 2, 3, 4], pa.int64()), "name": ["a", None, "c", "d"]})


def protocol(*features: str, writer: Sequence[str] = (), reader: int = 3) -> Action:
    """Reader features are writer features, too."""
    made: Action = {"minReaderVersion": reader, "minWriterVersion": 7}
    if reader == 3:
        made["readerFeatures"] = list(features)
    return {"protocol": {**made, "writerFeatures": [*features, *writer]}}


def fields(schema: pa.Schema, **metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": field.name,
            "type": TYPES[str(field.type)],
            "nullable": True,
            "metadata": dict(metadata.get(field.name, {})),
        }
        for field in schema
    ]


def table_metadata(
    columns: Sequence[Mapping[str, Any]],
    *,
    partitions: Sequence[str] = (),
    **configuration: str,
) -> Action:
    told = {name.replace("__", "."): value for name, value in configuration.items()}
    return {
        "metaData": {
            "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9",
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": list(columns)}),
            "partitionColumns": list(partitions),
            "configuration": told,
            "createdTime": 1,
        }
    }


def add(
    table: Path,
    name: str,
    rows: pa.Table,
    *,
    partition: Mapping[str, str | None] | None = None,
    parquet: Mapping[str, Any] | None = None,
    **more: Any,
) -> Action:
    """Write a data file, and return the action that adds it."""
    file = table / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, file, store_schema=False, **(parquet or {}))
    return {
        "add": {
            "path": quote(name, safe="/="),
            "partitionValues": dict(partition or {}),
            "size": file.stat().st_size,
            "modificationTime": 1,
            "dataChange": True,
            "stats": json.dumps({"numRecords": rows.num_rows}),
            **more,
        }
    }


def remove(added: Action) -> Action:
    return {"remove": {"path": added["add"]["path"], "deletionTimestamp": 1, "dataChange": True}}


def commit(table: Path, version: int, *actions: Action, name: str = "") -> None:
    log = table / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(action) + "\n" for action in actions)
    (log / f"{name or f'{version:020d}'}.json").write_text(lines)


MAP = pa.map_(pa.string(), pa.string())
CHECKPOINT = pa.schema(
    [
        (
            "protocol",
            pa.struct([("minReaderVersion", pa.int32()), ("minWriterVersion", pa.int32())]),
        ),
        (
            "metaData",
            pa.struct(
                [
                    ("id", pa.string()),
                    ("format", pa.struct([("provider", pa.string()), ("options", MAP)])),
                    ("schemaString", pa.string()),
                    ("partitionColumns", pa.list_(pa.string())),
                    ("configuration", MAP),
                    ("createdTime", pa.int64()),
                ]
            ),
        ),
        (
            "add",
            pa.struct(
                [
                    ("path", pa.string()),
                    ("partitionValues", MAP),
                    ("size", pa.int64()),
                    ("modificationTime", pa.int64()),
                    ("dataChange", pa.bool_()),
                    ("stats", pa.string()),
                ]
            ),
        ),
        (
            "remove",
            pa.struct(
                [
                    ("path", pa.string()),
                    ("deletionTimestamp", pa.int64()),
                    ("dataChange", pa.bool_()),
                ]
            ),
        ),
        ("txn", pa.struct([("appId", pa.string()), ("version", pa.int64())])),
    ]
)


def checkpoint(table: Path, version: int, *parts: Sequence[Action]) -> None:
    """Write the state as one Parquet file, or as several parts, and point at it."""
    log, head = table / "_delta_log", f"{version:020d}.checkpoint"
    for number, actions in enumerate(parts, start=1):
        name = f"{head}.{number:010d}.{len(parts):010d}" if len(parts) > 1 else head
        rows = [{field.name: action.get(field.name) for field in CHECKPOINT} for action in actions]
        pq.write_table(pa.Table.from_pylist(rows, CHECKPOINT), log / f"{name}.parquet")
    told: dict[str, int] = {"version": version, "size": sum(map(len, parts))}
    told |= {"parts": len(parts)} if len(parts) > 1 else {}
    (log / "_last_checkpoint").write_text(json.dumps(told))
