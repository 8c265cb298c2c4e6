"""Files of questions, and folders that look like models."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def write(tmp_path: Path):
    """A function that writes rows as ``<folder>/<name>.parquet``."""

    def write_file(rows: list[dict], name: str = "mine/val", **options) -> Path:
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
        return path

    return write_file


@pytest.fixture
def model_folder(tmp_path: Path):
    """A function that makes a folder with a model's files."""

    def make(name: str, weights: bytes = b"weights") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        return folder

    return make
