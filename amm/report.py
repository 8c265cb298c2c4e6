"""What a merge leaves beside the weights: `provenance.json`, pictures, and a model card.

The same inputs and settings give the same bytes: no dates, no paths but those that were given.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amm._version import __version__
from amm.checkpoints import Checkpoint
from amm.checkpoints.hub import hub_id
from amm.checkpoints.writer import OutputFolder
from amm.diagnostics import NORM_RATIO_WARNING, LayerFigures
from amm.engines.job import Job
from amm.engines.recorder import TensorReport
from amm.plots import can_draw, draw_cosines, draw_losses, draw_norms, short_paths
from amm.text import listed, markdown, markdown_code

PROVENANCE_FILE = "provenance.json"
CARD_FILE = "README.md"
PLOT_FILES = ("merge_loss.png", "merge_norms.png", "merge_cosines.png")
REPORT_FILES = (PROVENANCE_FILE, CARD_FILE, *PLOT_FILES)
"""All that is written here; files of the donor under these names are kept under others."""

_LICENSE_KEYS = ("license", "license_name", "license_link")
_METADATA_LIMIT = 2**16
_LICENSE_LIMIT = 500
"""Characters that are read of a donor's card, and of one value in it."""

logger = logging.getLogger("amm")


@dataclass
class MergeResult:
    """What a merge did.

    Attributes:
        output: the folder that was written.
        tensors: one report for each tensor, in the order of the output.
        warnings: sentences, as logged.
        copied_files: files taken over from the donor → their names in the output.
        owned_files: files taken over from other models, in a union → the folders they are from.
        left_out: the donor's other files, the weights of a base apart.
        config_dtype: what config.json was made to say, where the donor's said otherwise.
        resumed: tensors that an earlier run had merged.
    """

    output: Path
    tensors: list[TensorReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    copied_files: dict[str, str] = field(default_factory=dict)
    owned_files: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    config_dtype: str | None = None
    resumed: int = 0

    @property
    def rounding_kept(self) -> float | None:
        """Share of the changed entries that differ from the base after rounding."""
        changed = sum(tensor.changed for tensor in self.tensors)
        return sum(tensor.kept for tensor in self.tensors) / changed if changed else None

    def as_dict(self) -> dict[str, Any]:
        """What the output's provenance.json doesn't say, and how it went, as JSON can hold it."""
        return {
            "output": str(self.output),
            "tensors": len(self.tensors),
            "resumed": self.resumed,
            "rounding_kept": self.rounding_kept,
            "warnings": self.warnings,
        }


def write_reports(
    folder: OutputFolder, job: Job, result: MergeResult, hashes: Mapping[str, Mapping[str, str]]
) -> None:
    """Write `provenance.json`, the pictures and the model card into an output folder.

    Args:
        folder: the output, with all weights and the donor's files in place.
        job: the merge.
        result: what became of each tensor.
        hashes: path of an input → its weight files → their sha256; empty if they weren't wanted.
    """
    plots, config = _plots(result, job.experts), job.config
    for name, data in plots.items():
        folder.write_bytes(name, data)
    donor = config.copy_files_from or job.base.files_folder
    provenance = {
        "config": config.model_dump(mode="json", exclude={"output", "engine", "max_memory"})
        | {"parameters": job.settings.model_dump(mode="json")},
        "inputs": [
            {
                "path": str(given),
                "found": checkpoint.describe(),
                "sha256": dict(sorted(hashes.get(str(given), {}).items())),
            }
            for given, checkpoint in job.inputs
        ],
        "tables": [
            {"path": str(table), "sha256": hashes[str(table)][table.name]} for table in job.tables
        ],
        "versions": _versions(),
        "donor": None if donor is None else str(donor),
        "copied_files": result.copied_files,
        "owned_files": result.owned_files,
        "left_out_files": result.left_out,
        "config_dtype": result.config_dtype,
        "rounding_kept": result.rounding_kept,
        "warnings": result.warnings,
        "tensors": [asdict(tensor) for tensor in result.tensors],
    }
    folder.write_json(PROVENANCE_FILE, provenance)
    donors_card = result.copied_files.get(CARD_FILE)
    licence = _licence(folder.partial / donors_card) if donors_card is not None else {}
    folder.write_text(CARD_FILE, model_card(provenance, licence, donors_card, list(plots)))


def model_card(
    provenance: Mapping[str, Any],
    licence: Mapping[str, str],
    donors_card: str | None,
    plots: Sequence[str],
) -> str:
    """The text of the model card, with the Hub's metadata.

    Args:
        provenance: content of `provenance.json`.
        licence: the donor's `license`, `license_name` and `license_link`, where it names them.
        donors_card: name under which the donor's own card is kept, or None.
        plots: names of the pictures.
    """
    config, inputs = provenance["config"], provenance["inputs"]
    method = config["method"]
    base, *experts = inputs
    parts = [_front_matter(method, inputs, licence), f"# {_title(base['path'], method)}\n"]
    parts.append(
        f"{markdown(_name(base['path']))}, with {len(experts)} "
        f"{'expert' if len(experts) == 1 else 'experts'} that were trained from it merged in by"
        f" `{method}`, from weights alone (amm {provenance['versions']['amm']}).\n"
    )
    parts.append("## How to load it\n\nFrom this folder, or its name on the Hub:\n")
    parts.append(
        "```python\nfrom transformers import AutoConfig\nimport transformers\n\n"
        'path = "."\nname = AutoConfig.from_pretrained(path).architectures[0]\n'
        'model = getattr(transformers, name).from_pretrained(path, dtype="auto")\n```\n\n'
        "```sh\nvllm serve .\n```\n"
    )
    parts.append("## What went in\n\n| | model | found | sha256 |\n|---|---|---|---|")
    for number, model in enumerate(inputs):
        role = f"expert {number}" if number else "base"
        short = f"`{_digest(model['sha256'])}`" if model["sha256"] else "not computed"
        path, found = markdown_code(model["path"]), markdown(model["found"])
        parts.append(f"| {role} | {path} | {found} | {short} |")
    parts.append(
        "\nThe hash is that of all weight files' hashes, which `provenance.json` has.\n\n"
        f"## Method\n\n`{method}`, with these settings:\n\n| setting | value |\n|---|---|"
    )
    shown = config["parameters"] | {
        key: config[key] for key in ("compute_dtype", "save_dtype") if key in config
    }
    for key, value in shown.items():
        parts.append(f"| `{key}` | {'as in the base' if value is None else markdown(value)} |")
    parts.append("\n## Figures\n")
    parts.append(_figures_table(provenance))
    parts += [f"![{_ALT[name]}]({name})\n" for name in plots]
    if not plots and any(tensor["layer"] for tensor in provenance["tensors"]):
        parts.append("No pictures: matplotlib wasn't installed where this was merged.\n")
    if provenance["warnings"]:
        parts.append("## Warnings\n")
        parts += [f"- {markdown(warning)}" for warning in provenance["warnings"]]
        parts.append("")
    parts.append("## More\n\nEverything per layer, versions and hashes: `provenance.json`.")
    if provenance["left_out_files"]:
        left_out = markdown(listed(provenance["left_out_files"]))
        parts.append(f"Left out of the other files: {left_out}.")
    if donors_card is not None:
        parts.append(
            f"The card of the model that the other files are from: {markdown_code(donors_card)}."
        )
    return "\n".join(parts)


_ALT = {
    "merge_loss.png": "Interference per linear layer before and after",
    "merge_norms.png": "Norm of the merged task vector per linear layer",
    "merge_cosines.png": "Cosine of the merged task vector with each expert's",
}


def _plots(result: MergeResult, experts: Sequence[Checkpoint]) -> dict[str, bytes]:
    """Pictures by file name; none where matplotlib isn't there or fails, whatever it raises."""
    layers = {tensor.name: tensor.layer for tensor in result.tensors if tensor.layer is not None}
    if not layers or not can_draw():
        return {}
    names = short_paths([str(expert.path) for expert in experts])
    try:
        drawn = (
            draw_losses(
                {name: layer.relative_losses[0] for name, layer in layers.items()},
                {name: layer.relative_losses[1] for name, layer in layers.items()},
            ),
            draw_norms({n: layer.norm_ratio for n, layer in layers.items()}, NORM_RATIO_WARNING),
            draw_cosines({n: _by_expert(layer) for n, layer in layers.items()}, names),
        )
    except Exception as error:
        warning = f"no pictures: matplotlib failed ({type(error).__name__}: {error})"
        result.warnings.append(warning)
        logger.warning("%s", warning)
        return {}
    return dict(zip(PLOT_FILES, drawn, strict=True))


def _by_expert(layer: LayerFigures) -> list[float]:
    return [float("nan") if cosine is None else cosine for cosine in layer.cosines]


def _versions() -> dict[str, str]:
    libraries = ("torch", "safetensors", "numpy")
    return {
        "amm": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def _licence(card: Path) -> dict[str, str]:
    """The licence that a card names in its metadata, whatever else is wrong with that."""
    import yaml

    with card.open(encoding="utf-8", errors="replace") as file:
        first, *lines = file.read(_METADATA_LIMIT).splitlines() or [""]
    licence = {}
    for line in itertools.takewhile(lambda line: line.rstrip() != "---", lines):
        key, _, text = line.partition(":")
        if first.rstrip() == "---" and key in _LICENSE_KEYS:
            try:
                value = yaml.safe_load(text[:_LICENSE_LIMIT])
            except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
                continue
            if isinstance(value, str):
                licence[key] = value
    return licence


def _front_matter(
    method: str, inputs: Sequence[Mapping[str, Any]], licence: Mapping[str, str]
) -> str:
    import yaml

    base, *experts = (model["path"] for model in inputs)
    hub = [_name(path) for path in experts if hub_id(path)]
    tags = ["merge", "amm"] + ([method] if method != "amm" else [])
    metadata = {
        "library_name": "transformers",
        "base_model": [_name(base), *hub],
        "base_model_relation": "merge",
        "tags": tags,
        **licence,
    }
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n"


def _name(path: str) -> str:
    """A Hub id without its revision; of a folder its own name."""
    found = hub_id(path)
    return Path(path).name if found is None else found["repo"]


def _title(base: str, method: str) -> str:
    return f"{markdown(_name(base).rpartition('/')[2])}, merged with {method}"


def _digest(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode(errors="backslashreplace")).hexdigest()[:12]


def _figures_table(provenance: Mapping[str, Any]) -> str:
    tensors = provenance["tensors"]
    rules: dict[str, int] = {}
    for tensor in tensors:
        rules[tensor["rule"]] = rules.get(tensor["rule"], 0) + 1
    rows = [("tensors", ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items())))]
    layers = [LayerFigures(**tensor["layer"]) for tensor in tensors if tensor["layer"]]
    if layers:
        unit = sum(norm**2 for layer in layers for norm in layer.norms)
        before = sum(layer.loss_before for layer in layers) / unit
        after = sum(layer.loss_after for layer in layers) / unit
        ratios = sorted(layer.norm_ratio for layer in layers)
        middle = ratios[len(ratios) // 2]
        rows += [
            (
                "interference Σ L_i / Σ ‖τ_i‖², sum of task vectors → merged",
                f"{before:.3g} → {after:.3g}",
            ),
            (
                "‖τ‖/‖Σ τ_i‖, least, median, most",
                f"{ratios[0]:.2f}, {middle:.2f}, {ratios[-1]:.2f}",
            ),
        ]
    kept = provenance["rounding_kept"]
    if kept is not None:
        rows.append(("changed entries that rounding kept", f"{kept:.1%}"))
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"
