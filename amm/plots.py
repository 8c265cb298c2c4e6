"""Pictures of a merge and of task vectors; matplotlib is imported when one is drawn.

The same numbers give the same bytes with one version of matplotlib.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amm.survey import group_of, kind_of, layer_of
from amm.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = {"language": "#0072B2", "vision": "#D55E00", "merger": "#009E73"}
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""

_LABEL = 60
"""Characters of a name."""

_INCHES = 60
"""Of a picture's sides."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_losses(before: Mapping[str, float], after: Mapping[str, float]) -> bytes:
    """Interference of each linear layer at Σ τ_i and at τ, relative to the task vectors.

    Args:
        before: layer → loss, in units of the layer's task vectors, so that layers compare.
        after: the same of the merge.

    Returns:
        A PNG file.
    """
    figure, axes = _figure(9, 3.6)
    _scatter(axes, before, hollow=True)
    _scatter(axes, after, hollow=False)
    positive = [value for value in (*before.values(), *after.values()) if value > 0]
    if positive and max(positive) > 30 * min(positive):
        axes.set_yscale("log")
    axes.set_ylabel(r"$\sum_i L_i\,/\,\sum_i \|\tau_i\|^2$")
    axes.set_title("Interference per linear layer: sum of the task vectors (○), merged (●)")
    _finish_layers(axes, before)
    return _png(figure)


def draw_norms(ratios: Mapping[str, float], warning: float) -> bytes:
    """‖τ‖/‖Σ τ_i‖ of each linear layer, with the line above which the merge warns.

    Args:
        ratios: layer → ratio.
        warning: the line.

    Returns:
        A PNG file.
    """
    figure, axes = _figure(9, 3.6)
    _scatter(axes, ratios, hollow=False)
    axes.axhline(1, color="0.6", linewidth=0.8)
    if max(ratios.values()) > 0.75 * warning:
        axes.axhline(warning, color="#CC0000", linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1.1 * max(1.0, *ratios.values()))
    axes.set_ylabel(r"$\|\tau\|\,/\,\|\sum_i \tau_i\|$")
    axes.set_title("How far each linear layer went, next to the sum of the task vectors")
    _finish_layers(axes, ratios)
    return _png(figure)


def draw_cosines(cosines: Mapping[str, Sequence[float]], experts: Sequence[str]) -> bytes:
    """cos(τ, τ_i): rows are kinds of linear layers (mean over the layers), columns experts.

    Args:
        cosines: layer → one cosine for each expert; NaN where it left the layer alone.
        experts: their names.

    Returns:
        A PNG file.
    """
    kinds = list(dict.fromkeys(map(kind_of, cosines)))
    table = np.array(
        [_mean([row for name, row in cosines.items() if kind_of(name) == kind]) for kind in kinds]
    )
    figure, axes = _figure(4.8 + 0.9 * len(experts), 1.4 + 0.27 * len(kinds))
    image = _cosine_map(axes, table, short_kinds(kinds), experts)
    axes.set_title("Cosine of the merged task vector with each expert's", fontsize=10, loc="right")
    figure.colorbar(image, ax=axes, label=r"$\cos(\tau, \tau_i)$")
    return _png(figure)


def draw_task_vectors(
    norms: Mapping[str, Sequence[float]],
    cosines: Sequence[Sequence[float]],
    experts: Sequence[str],
) -> bytes:
    """Where each expert moved, and how much the experts agree.

    Args:
        norms: linear layer → ‖τ_i‖/‖W_0‖ for each expert.
        cosines: cos(τ_i, τ_j) over all linear layers, K × K.
        experts: their names.

    Returns:
        A PNG file: for each expert a heat-map of kinds by layer number, then the cosines.
    """
    from matplotlib.colors import LogNorm, Normalize

    kinds = list(dict.fromkeys(kind_of(name) for name in norms))
    numbers = sorted({layer_of(name) or 0 for name in norms})
    column, layers = {number: at for at, number in enumerate(numbers)}, len(numbers)
    tables = np.full((len(experts), len(kinds), layers), np.nan)
    for name, values in norms.items():
        tables[:, kinds.index(kind_of(name)), column[layer_of(name) or 0]] = values
    moved = tables[(tables > 0) & np.isfinite(tables)]
    low, high = (moved.min(), moved.max()) if moved.size else (1e-6, 1.0)
    wide = high > 10 * low
    scale = LogNorm(low, high) if wide else Normalize(0.9 * low, 1.1 * high)

    height = 1.0 + 0.24 * len(kinds)
    width = 6.0 + 0.22 * layers
    square = 2.2 + 0.45 * len(experts)
    figure, all_axes = _figure(width, len(experts) * height + square, rows=len(experts) + 1)
    grid = all_axes[0].get_gridspec()
    grid.set_height_ratios([*([height] * len(experts)), square])
    for axes, table, expert in zip(all_axes, tables, experts, strict=False):
        axes.set_facecolor("0.9")
        shown = np.ma.masked_invalid(np.where(table > 0, table, np.nan))
        image = axes.imshow(shown, aspect="auto", cmap="viridis", norm=scale)
        axes.set_yticks(range(len(kinds)), list(map(_label, short_kinds(kinds))), fontsize=7)
        axes.locator_params(axis="x", integer=True)
        axes.xaxis.set_major_formatter(
            lambda at, _: str(numbers[int(at)]) if at in range(layers) else ""
        )
        axes.set_title(f"{_label(expert)} (grey: not moved, or no such layer)", fontsize=9)
    all_axes[-2].set_xlabel("layer number", fontsize=8)
    figure.colorbar(image, ax=list(all_axes[:-1]), label=r"$\|\tau_i\|\,/\,\|W_0\|$")
    axes, table = all_axes[-1], np.array(cosines, dtype=float)
    image = _cosine_map(axes, table, experts, experts)
    axes.set_aspect("equal")
    axes.set_title("Cosine between the experts' task vectors, all linear layers", fontsize=9)
    figure.colorbar(image, ax=axes, label=r"$\cos(\tau_i, \tau_j)$")
    return _png(figure)


def short_kinds(kinds: Sequence[str]) -> list[str]:
    """Kinds without what a reader can do without: `.weight` and containers' names."""
    dropped = {"weight", "model", "language_model", "layers", "blocks", "*"}
    parts = [[part for part in kind.split(".") if part not in dropped] for kind in kinds]
    return [".".join(part) or kind for part, kind in zip(parts, kinds, strict=True)]


def _label(name: str) -> str:
    """A name as matplotlib draws it: without formulas, no longer than a picture bears."""
    shown = printable(name)
    return (shown if len(shown) <= _LABEL else f"…{shown[-_LABEL:]}").replace("$", r"\$")


def short_paths(paths: Sequence[str]) -> list[str]:
    """Names that tell paths apart: their last parts, as few as that takes."""
    parts = [[part for part in path.split("/") if part] or [path] for path in paths]
    common = 0
    while all(len(p) > common + 1 and p[-1 - common] == parts[0][-1 - common] for p in parts):
        common += 1
    common = common if len(parts) > 1 else 0
    ends = [p[: len(p) - common] for p in parts]
    depth = 1
    while len({tuple(p[-depth:]) for p in ends}) < len({tuple(p) for p in ends}):
        depth += 1
    return ["/".join(p[-depth:]) for p in ends]


def _figure(width: float, height: float, rows: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(min(width, _INCHES), min(height, _INCHES)), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _scatter(axes: Axes, values: Mapping[str, float], *, hollow: bool) -> None:
    names = list(values)
    for group, colour in COLOURS.items():
        at = [i for i, name in enumerate(names) if group_of(name) == group]
        axes.scatter(
            at,
            [values[names[i]] for i in at],
            s=14,
            facecolors="none" if hollow else colour,
            edgecolors=colour,
            linewidths=0.8,
            label=group if at and not hollow else None,
        )


def _finish_layers(axes: Axes, values: Mapping[str, float]) -> None:
    axes.set_xlabel("linear layer, in the order of the file")
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if len({group_of(name) for name in values}) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best")


def _cosine_map(
    axes: Axes, table: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> AxesImage:
    image = axes.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    rows, columns = list(map(_label, rows)), list(map(_label, columns))
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    turn, side = (30, "right") if max(map(len, columns)) > 9 else (0, "center")
    axes.set_xticks(range(len(columns)), columns, fontsize=8, rotation=turn, ha=side)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.7 else "black"
            said = f"{value:.2f}"
            axes.text(column, row, said, ha="center", va="center", fontsize=7, color=colour)
    return image


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    columns = [[value for value in column if value == value] for column in zip(*rows, strict=True)]
    return [sum(column) / len(column) if column else float("nan") for column in columns]
