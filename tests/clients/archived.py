"""Looks at the segments of a topic as an analyst does, and tells what it sees as lines of JSON.

archived.py FOLDER [ENDPOINT KEY SECRET]: the folder of the segments, on this machine or on an S3 server.

It tells what DuckDB answers about them. Then it opens them all anew and reads one row group for each line of input, as
a slow reader does; at the end of input it tells how many rows it has seen.
"""

import json
import sys

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

QUERY = """
    SELECT decode(_kafka_value)::JSON ->> 'origin' AS origin, count(*),
           avg((decode(_kafka_value)::JSON ->> 'delay')::DOUBLE)
    FROM segments GROUP BY origin ORDER BY origin
"""


def tell(what):
    print(json.dumps(what), flush=True)


folder, *server = sys.argv[1:]
if server:
    endpoint, key, secret = server
    files = pafs.S3FileSystem(
        access_key=key, secret_key=secret, endpoint_override=endpoint, scheme="http", region="us-east-1"
    )
else:
    files = pafs.LocalFileSystem()

segments = ds.dataset(folder, filesystem=files, format="parquet")
tell({"files": len(segments.files), "flights": duckdb.sql(QUERY).fetchall()})

opened = [pq.ParquetFile(files.open_input_file(path)) for path in segments.files]
groups = [(file, group) for file in opened for group in range(file.num_row_groups)]
tell({"row_groups": len(groups)})
rows = 0
for file, group in groups:
    if not sys.stdin.readline():
        break
    rows += file.read_row_group(group).num_rows
    tell({"rows": rows})
