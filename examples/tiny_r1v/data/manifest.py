"""What is written down about the data: settings, counts and reasons, hashes, versions."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from examples.tiny_r1v.data import files, images, tables
from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.schema import PROMPT_SUFFIX

FORMAT = 2
"""Grows when the same settings give other rows, so that older parts are not used."""

MIN_SHARE = 0.8
"""Of its share a source must give so much, or be named in --allow-short. [ours]"""

CONSTANTS = {
    "format": FORMAT,
    "max_pixels": images.MAX_PIXELS,
    "min_side": images.MIN_SIDE,
    "table_font_size": tables.FONT_SIZE,
    "prompt_suffix": PROMPT_SUFFIX,
}
"""What decides about the rows in the code."""


@dataclass(frozen=True)
class Settings:
    """What decides about the rows, apart from the sources' files."""

    count: int
    val: int
    seed: int

    def described(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"count": self.count, "val": self.val, "seed": self.seed, **CONSTANTS}


def finished(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """The manifest of a folder that is complete, or None.

    Raises DataError where it was made with other settings.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    manifest = files.read_json(path)
    made, asked = manifest["settings"], settings.described()
    if made != asked:
        other = [f"{key}={made.get(key)!r}" for key in asked if made.get(key) != asked[key]]
        raise DataError(
            f"{folder} was made with {', '.join(other)}. Give another --output, the same settings, "
            "or delete the folder."
        )
    return manifest if complete(folder, manifest) else None


def complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the files that a manifest tells of are there, with their sizes."""
    return all(
        (folder / name).exists() and (folder / name).stat().st_size == output["bytes"]
        for name, output in manifest["outputs"].items()
    )


def too_few(expert: str, settings: Settings, missing: int, described: list[dict[str, Any]]) -> str:
    """An error's text: how many rows are missing, and what became of the questions."""
    return "\n".join(
        [
            f"{expert}: {missing} rows too few for {settings.count} training and {settings.val} "
            "validation rows. Ask for fewer (--count, --val), or raise a source's `limit` of files "
            "or `per_picture` in sources.py. What was read:",
            *(f"  {_counts(source)}" for source in described),
        ]
    )


def too_short(expert: str, described: dict[str, Any]) -> str:
    """An error's text: a source that gives too little of its share, and why."""
    name = described["name"]
    return (
        f"{expert}: the source {name} ({described['repository']}) gives {described['kept']} rows "
        f"of its share of {described['share']}, under {MIN_SHARE:.0%}. {_counts(described)}. More "
        "rows of other sources are not put in their place unasked: see why they were left out, "
        "and correct the files or sources.py. To permit it, run the same command with "
        f"--allow-short {name}."
    )


def _counts(source: dict[str, Any]) -> str:
    commonest = sorted(source["dropped"].items(), key=lambda pair: -pair[1])
    reasons = ", ".join(f"{count} {reason}" for reason, count in commonest)
    return (
        f"{source['name']}: {source['read']} questions read, {source['kept']} of "
        f"{source['wanted']} wanted kept; left out: {reasons or 'none'}"
    )


def versions() -> dict[str, str]:
    """Of what decides about the bytes of the files."""
    return {name: version(name) for name in ("lipo-verl", "numpy", "pillow", "pyarrow")}
