"""What the commands print: tables for people, at 80 columns and more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.table import Table
from rich.text import Text

from amm.checking import CheckResult
from amm.inspection import Figures, Inspection
from amm.methods import Method
from amm.planning import Plan
from amm.plots import short_kinds, short_paths
from amm.survey import group_of
from amm.text import listed, printable, printable_lines, size_text

SHOWN = 20
COLUMNS = 6
"""Columns of a table that 80 characters hold."""
WIDE = ("embedding", "head")
MARKS = {True: ("ok", "green"), False: ("FAILED", "bold red"), None: ("not tried", "yellow")}


def show_plan(plan: Plan, console: Console, *, everything: bool) -> None:
    """Print a plan, with the first `SHOWN` differences or all of them."""
    for number, model in enumerate(plan.inputs):
        role = f"Expert {number}" if number else "Base"
        console.print(Text.assemble((f"{role}: ", "bold"), printable(model["path"])))
        console.print(f"    {printable(model['found'])}; head: {printable(model['head'])}")
    console.print()
    if plan.differences:
        _show_differences(plan, console, everything)
    if plan.frozen:
        _show_frozen(plan, console)
    if plan.kinds:
        _show_kinds(plan, console)
        console.print(
            f"Computing time: about {duration(plan.seconds)}, an estimate from small tensors;"
            " reading and writing come on top."
        )
        console.print(
            f"Memory: the largest tensor needs about {size_text(plan.memory)}; the ceiling"
            f" max_memory is {size_text(plan.max_memory)}."
        )
        console.print(
            f"Disk: {size_text(plan.disk_needed)} for the weights,"
            f" {size_text(plan.disk_free)} free."
        )
    if plan.donor is not None:
        left_out = f"; left out: {listed(plan.left_out)}" if plan.left_out else ""
        other_files = f"{len(plan.copied_files)} files of {plan.donor}{left_out}"
        console.print(f"Beside the weights: {printable(other_files)}.")
    _show_sentences(console, plan.warnings, "Warning", "yellow")
    _show_sentences(console, plan.problems, "Problem", "bold red")
    if plan.ok:
        console.print("Nothing speaks against this merge.", style="green")


def show_check(result: CheckResult, console: Console) -> None:
    """Print what was looked at."""
    table = _table("", "check", "found")
    for check in result.checks:
        word, style = MARKS[check.ok]
        table.add_row(Text(word, style), check.name, printable_lines(check.detail))
    _print(console, str(result.output), table)


def show_inspection(found: Inspection, console: Console, *, layers: bool) -> None:
    """Print the figures of every kind of tensor, or of every tensor."""
    rows = found.layers
    if not layers:
        rows = [kind for kind in found.kinds if kind.ranks or group_of(kind.name) in WIDE]
    names = [row.name for row in rows] if layers else short_kinds([row.name for row in rows])
    titles = [f">{title}" for title in ("‖τ‖/‖W₀‖", "same", "same bf16", "rank")]
    ruled = any(row.rules for row in rows)
    table = _table("tensor", *titles, *(["merged by"] if ruled else []))
    for title, figures in [("all", found.whole), *zip(names, rows, strict=True)]:
        rules = [", ".join(map(printable, figures.rules))] if ruled else []
        table.add_row(printable(title), *_columns(figures), *rules)
    experts = ", ".join(f"{i + 1} {name}" for i, name in enumerate(found.experts))
    _print(console, f"Task vectors; a line for each expert: {experts}", table)
    if not layers:
        console.print("Norms, biases and other small tensors: --layers, --json.")
    console.print(
        "same: entries that equal the base's, and those that do once both are bf16."
        "  rank: stable / effective, of linear layers."
    )
    if len(found.experts) > 1:
        for first in range(0, len(found.experts), COLUMNS):
            part = slice(first, first + COLUMNS)
            numbers = range(len(found.experts))[part]
            table = _table("cosine", *(f">{i + 1}" for i in numbers))
            for i, row in enumerate(found.linear_cosines):
                expert = printable(f"{i + 1} {found.experts[i]}")
                table.add_row(expert, *(f"{v:.3f}" for v in row[part]))
            _print(console, "Between experts, all linear layers", table)


def show_methods(methods: Sequence[Method], console: Console) -> None:
    """Print the merge methods with their settings."""
    table = _table("method", "tensors", "settings and their defaults")
    for method in methods:
        settings = [
            f"{name}: {'required' if field.is_required() else _value(field.default)}"
            f"{_choices(field.annotation)}"
            for name, field in method.settings.model_fields.items()
        ]
        table.add_row(method.name, method.tensors, "\n".join(settings) or "none")
    console.print(table)


def duration(seconds: float, *, short: bool = False) -> str:
    """A time in words, of two digits at most: 3.5 hours, or 3.5 h."""
    for unit, letter, length in (
        ("days", "d", 86400),
        ("hours", "h", 3600),
        ("minutes", "min", 60),
    ):
        if seconds >= 2 * length:
            return f"{_two_digits(seconds / length)} {letter if short else unit}"
    return f"{_two_digits(max(seconds, 1))} {'s' if short else 'seconds'}"


def _show_differences(plan: Plan, console: Console, everything: bool) -> None:
    shown = plan.differences if everything else plan.differences[:SHOWN]
    experts = sorted({difference.expert for difference in plan.differences})
    short = dict(zip(experts, short_paths(experts), strict=True))
    table = _table("expert", "tensor", "in the base", "in the expert")
    for found in shown:
        cells = (short[found.expert], found.key, found.in_base, found.in_expert)
        table.add_row(*map(printable, cells))
    _print(console, f"{len(plan.differences)} differences", table)
    if len(shown) < len(plan.differences):
        console.print(f"… {len(plan.differences) - len(shown)} more; --all shows them.")


def _show_frozen(plan: Plan, console: Console) -> None:
    titles = ["part", *(f"expert {i + 1}" for i in range(len(plan.inputs) - 1))]
    rows = [
        [printable(group), *(f"{tensors - still} of {tensors}" for still, tensors in experts)]
        for group, experts in plan.frozen.items()
    ]
    if len(titles) > COLUMNS:
        titles, *rows = map(list, zip(titles, *rows, strict=True))
    table = _table(titles[0], *(f">{title}" for title in titles[1:]))
    for row in rows:
        table.add_row(*row)
    read = "all entries were read" if plan.deep else "a sample of each was read; --deep reads all"
    _print(console, f"Tensors that each expert moved ({read})", table)


def _show_kinds(plan: Plan, console: Console) -> None:
    table = _table("tensors", ">number", "shape", ">ρ", "becomes", ">time")
    for kind, name in zip(plan.kinds, short_kinds([k.kind for k in plan.kinds]), strict=True):
        rho = "" if kind.rho is None else f"{kind.rho:.2f}"
        shape = "×".join(map(str, kind.shape))
        time = duration(kind.seconds, short=True) if kind.seconds >= 1 else ""
        table.add_row(printable(name), str(kind.count), shape, rho, kind.rule, time)
    _print(console, "What becomes of the tensors", table)


def _show_sentences(console: Console, sentences: list[str], word: str, style: str) -> None:
    for sentence in sentences:
        console.print(Text.assemble((f"{word}: ", style), printable_lines(sentence)))


def _columns(figures: Figures) -> list[str]:
    ranks = figures.ranks or [None] * len(figures.norms)
    return [
        "\n".join("" if norm is None else f"{norm:.1e}" for norm in figures.norms),
        "\n".join(f"{value:.1%}" for value in figures.unchanged),
        "\n".join(f"{value:.1%}" for value in figures.unchanged_bf16),
        "\n".join("" if r is None else f"{r.stable:.1f} / {r.effective:.1f}" for r in ranks),
    ]


def _table(*titles: str) -> Table:
    """A table; titles that begin with `>` are of columns that end at the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        justify: Literal["left", "right"] = "right" if title.startswith(">") else "left"
        table.add_column(title.removeprefix(">"), justify=justify, overflow="fold")
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(Text(printable(title), "bold underline"))
    console.print(table)
    console.print()


def _value(default: Any) -> str:
    return "by the method" if default is None else str(default)


def _choices(annotation: Any) -> str:
    parts = [annotation, *get_args(annotation)]
    literals = [str(v) for part in parts if get_origin(part) is Literal for v in get_args(part)]
    return f" ({', '.join(literals)})" if literals else ""


def _two_digits(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return f"{round(value, 1 - math.floor(math.log10(value))):g}" if value > 0 else "0"
