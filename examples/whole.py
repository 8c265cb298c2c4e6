"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the name to write a file, folder or link under; in the end it takes the path's place.

    The name has the path's suffix, and its folder is there. After an error nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}.tmp{path.suffix}")
    _remove(unfinished)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # leaves files and links alone
    path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON in UTF-8."""
    with whole(path) as unfinished:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def write_plot(path: Path, figure: Figure) -> None:
    """Writes a figure as a picture of the kind that the path's suffix names."""
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
