"""Reads segments with pyarrow and DuckDB and prints what each of them sees, as JSON."""

import json
import sys

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ["partition", "offset", "timestamp", "key", "headers", "value"]


def hexed(value):
    return None if value is None else bytes(value).hex()


def shown(row):
    """A row without what JSON has no room for: timestamps as microseconds, bytes as hex."""
    partition, offset, micros, key, headers, value = row
    headers = [[h["key"], hexed(h["value"])] for h in headers]
    return [partition, offset, micros, hexed(key), headers, hexed(value)]


def by_pyarrow(path):
    table = pq.read_table(path)
    assert table.column_names == ["_kafka_" + name for name in COLUMNS], table.column_names
    ids = [field.metadata[b"PARQUET:field_id"].decode() for field in table.schema]
    micros = pc.cast(table["_kafka_timestamp"], "int64")
    table = table.set_column(2, "_kafka_timestamp", micros)
    return {"ids": ids, "rows": [shown(row.values()) for row in table.to_pylist()]}


def by_duckdb(path):
    columns = ", ".join(
        "epoch_us(_kafka_timestamp)" if name == "timestamp" else "_kafka_" + name for name in COLUMNS
    )
    rows = duckdb.execute(f"SELECT {columns} FROM read_parquet(?)", [path]).fetchall()
    keys = duckdb.execute("SELECT key FROM parquet_kv_metadata(?)", [path]).fetchall()
    return {"keys": sorted(bytes(key).decode() for (key,) in keys), "rows": [shown(r) for r in rows]}


def totals(path):
    query = """SELECT _kafka_partition, count(*), min(_kafka_offset), max(_kafka_offset),
               sum(octet_length(_kafka_value))::BIGINT FROM read_parquet(?)
               WHERE _kafka_offset >= 20 GROUP BY ALL ORDER BY ALL"""
    return duckdb.execute(query, [path]).fetchall()


small, large = sys.argv[1:]
print(
    json.dumps(
        {"pyarrow": by_pyarrow(small), "duckdb": by_duckdb(small), "totals": totals(large)}
    )
)
