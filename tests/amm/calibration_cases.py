"""Questions and answers to calibrate with."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def write_questions(file, shades):
    """Questions with one picture of a shade each."""
    rows = []
    for shade in shades:
        data = io.BytesIO()
        Image.new("RGB", (56, 56), (shade, 100, 100)).save(data, "PNG")
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"<image>What is {shade % 7} + 3?"}],
                "images": [{"bytes": data.getvalue(), "path": None}],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def write_answers(file, rows):
    """(row, tokens, accuracy) → an answer each."""
    lines = [
        json.dumps({"row": row, "response": "the answer is 4", "tokens": t, "accuracy": a})
        for row, t, a in rows
    ]
    file.write_text("\n".join(lines) + "\n")
    return file
