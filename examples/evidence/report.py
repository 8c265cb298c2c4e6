"""Makes docs/evidence.md's tables and plots from the committed results:

    python -m examples.evidence.report

A phase that is not finished yet is reported as far as it is, and the page says so.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from examples.evidence.arms import ARMS, BY_NAME
from examples.evidence.choice import (
    BASELINE,
    COLLAPSE,
    HARD,
    SLACK,
    TIE,
    best_of_lipo,
    chosen_strengths,
    hard_points,
)
from examples.evidence.measures import difference, on_frontier, ratio
from examples.evidence.results import Result
from examples.quickstart.tasks import MAX_STEPS, sufficient_tokens
from examples.whole import write_plot
from lipo_verl.evaluate.results import write_whole
from lipo_verl.evaluate.statistics import Estimate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"
PLOTS = ROOT / "docs" / "evidence"
RESULTS = Path(__file__).parent / "results" / "full"
TOKENS_BAR = 0.5
"""Of the baseline's tokens on hard questions: the study's bar."""


class Arm:
    """An arm's results on the reported questions, S seeds of Q questions."""

    def __init__(self, results: Sequence[Result]) -> None:
        first = results[0]
        self.name, self.strength = first.trial.arm, first.trial.strength
        self.by_seed = {result.trial.seed: result for result in results}
        self.steps = first.steps

    @property
    def title(self) -> str:
        arm = BY_NAME[self.name]
        if self.strength is None:
            return arm.title
        return f"{arm.title}, {arm.knob.rpartition('.')[2]} {self.strength:g}"

    def tokens(self, seeds: Iterable[int], chosen: np.ndarray) -> np.ndarray:
        """(S, Q) of the questions that are chosen."""
        return np.stack([self.by_seed[seed].tokens[chosen] for seed in seeds])

    def correct(self, seeds: Iterable[int], chosen: np.ndarray) -> np.ndarray:
        """(S, Q) of the questions that are chosen, 0 or 1."""
        return np.stack([self.by_seed[seed].correct[chosen] for seed in seeds]).astype(float)


def read(folder: Path) -> dict[str, list[Result]]:
    """The results by phase, in the order of the arms."""
    order = [arm.name for arm in ARMS]
    found = [Result.read(path) for path in sorted(folder.glob("*.json"))]
    found.sort(key=lambda result: (order.index(result.trial.arm), result.trial.seed))
    phases = defaultdict(list)
    for result in found:
        phases[result.trial.phase].append(result)
    return phases


def arms_of(results: Iterable[Result]) -> dict[str, Arm]:
    """By name, of those that were answered by the same questions."""
    by_arm = defaultdict(list)
    for result in results:
        by_arm[result.trial.arm].append(result)
    return {name: Arm(each) for name, each in by_arm.items()}


def shared(*arms: Arm) -> list[int]:
    """The seeds that all of them have."""
    first, *others = arms
    return [seed for seed in first.by_seed if all(seed in other.by_seed for other in others)]


def against(
    baseline: Arm, arm: Arm, seeds: Iterable[int], chosen: np.ndarray
) -> tuple[Estimate, Estimate]:
    """The arm's accuracy less the baseline's, and its tokens over the baseline's."""
    return (
        difference(arm.correct(seeds, chosen), baseline.correct(seeds, chosen)),
        ratio(arm.tokens(seeds, chosen), baseline.tokens(seeds, chosen)),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def points(estimate: Estimate) -> str:
    """A difference of accuracy in points, with its interval."""
    return f"{100 * estimate.value:+.1f}{interval(estimate, '.1f')}"


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f}{interval(estimate, '.0f')} %"


def interval(estimate: Estimate, form: str) -> str:
    """Half its width, in hundredths; nothing where it has no end."""
    half = 100 * (estimate.high - estimate.value)
    return "" if np.isinf(half) else f" ± {half:{form}}"


def verdict(loss: Estimate) -> str:
    """Of an arm's difference in accuracy from the baseline on hard questions."""
    if loss.value < -COLLAPSE:
        return "collapsed"
    return "sound" if loss.value >= -SLACK else ""


def compared(arms: dict[str, Arm]) -> Iterator[list[str]]:
    """The rows of the table of arms, beside the baseline of the same seeds."""
    baseline = arms[BASELINE]
    hard = baseline.steps >= HARD
    everything = np.full(len(hard), True)
    sufficient = np.array([sufficient_tokens(steps) for steps in baseline.steps])
    frontier = on_frontier(
        {
            name: (arm.tokens(arm.by_seed, hard).mean(), arm.correct(arm.by_seed, hard).mean())
            for name, arm in arms.items()
        }
    )
    for name, arm in arms.items():
        seeds = shared(arm, baseline)
        tokens, correct = arm.tokens(seeds, hard), arm.correct(seeds, hard)
        loss, share = against(baseline, arm, seeds, hard)
        whole_tokens, whole_correct = arm.tokens(seeds, everything), arm.correct(seeds, everything)
        yield [
            f"{arm.title}{' †' if name in frontier else ''}",
            f"{whole_correct.mean():.3f} · {whole_tokens.mean():.1f}",
            f"{correct.mean():.3f}",
            "" if name == BASELINE else points(loss),
            f"{tokens.mean():.1f}",
            "" if name == BASELINE else percent(share),
            f"{tokens.mean() / sufficient[hard].mean():.2f}",
            f"{tokens.sum() / correct.sum():.1f}",
            "" if name == BASELINE else verdict(loss),
        ]


HEADER = (
    "arm",
    "all: accuracy · tokens",
    "hard: accuracy",
    "against GRPO, points",
    "tokens",
    "of GRPO's",
    "of sufficient",
    "per correct",
    "",
)


def by_steps(arms: dict[str, Arm]) -> Iterator[list[str]]:
    for arm in arms.values():
        cells = []
        for steps in range(1, MAX_STEPS + 1):
            chosen = arm.steps == steps
            correct, tokens = arm.correct(arm.by_seed, chosen), arm.tokens(arm.by_seed, chosen)
            cells.append(f"{correct.mean():.3f} · {tokens.mean():.1f}")
        yield [arm.title, *cells]


def guards(conditions: Sequence[dict[str, Arm]]) -> Iterator[list[str]]:
    """Each of LIPO's other arms against plain LIPO, in each condition; whether it helps in one."""
    for name in BY_NAME:
        if not name.startswith("lipo-") or any(name not in arms for arms in conditions):
            continue
        cells, helps = [], False
        for arms in conditions:
            plain, arm = arms["lipo"], arms[name]
            gain, share = against(plain, arm, shared(arm, plain), plain.steps >= HARD)
            cells.append(f"{points(gain)} · {percent(share)}")
            helps |= gain.low > 0 or (gain.value >= -SLACK and share.high < 1)
        yield [conditions[0][name].title, *cells, "yes" if helps else "no"]


def tuning(results: Sequence[Result]) -> Iterator[list[str]]:
    trained = {result.trial.arm for result in results}
    chosen = chosen_strengths(results) if BASELINE in trained else {}
    for result in results:
        hard = result.steps >= HARD
        yield [
            f"{Arm([result]).title}",
            f"{result.correct.mean():.3f} · {result.tokens.mean():.1f}",
            f"{result.correct[hard].mean():.3f} · {result.tokens[hard].mean():.1f}",
            "chosen" if chosen.get(result.trial.arm) == result.trial.strength else "",
        ]


def results_section(phases: dict[str, list[Result]]) -> list[str]:
    """The page's part that is made from results."""
    lines = []
    reported = arms_of(phases["report"])
    if BASELINE in reported:
        seeds = sorted({result.trial.seed for result in phases["report"]})
        lines += [
            "![Accuracy over tokens of every arm on hard questions, reported and under stress]"
            "(evidence/frontier.png)",
            "",
            f"Seeds {', '.join(map(str, seeds))}; accuracy and mean tokens; against GRPO of the "
            "same seeds and questions, with 95 % intervals; †: on the frontier:",
            "",
            *table(HEADER, compared(reported)),
            "",
        ]
        short = [
            f"{arm.title} ({len(arm.by_seed)})"
            for arm in reported.values()
            if len(arm.by_seed) < len(seeds)
        ]
        if short:
            lines += [f"Not all seeds are done yet of: {', '.join(short)}.", ""]
    stressed = arms_of(phases["stress"])
    if BASELINE in stressed:
        lines += [
            "Under stress, at twice the learning rate:",
            "",
            *table(HEADER, compared(stressed)),
            "",
        ]
        if "lipo" in stressed and "lipo" in reported:
            lines += [
                "LIPO's other arms against plain LIPO on hard questions, points of accuracy · "
                "tokens of its. One helps if it is more accurate by more than its interval, or "
                "shorter by more than its interval at no more than a point less:",
                "",
                *table(
                    ("arm", "the demo's learning rate", "twice that", "helps"),
                    guards((reported, stressed)),
                ),
                "",
            ]
    if phases["final"]:
        again = arms_of(
            result
            for result in phases["report"] + phases["final"]
            if result.trial.arm in {final.trial.arm for final in phases["final"]}
        )
        lines += [
            "The finalists, over all their seeds; and over those alone that did not choose them:",
            "",
            *table(HEADER, compared(again)),
            "",
            *table(HEADER, compared(arms_of(phases["final"]))),
            "",
        ]
    if BASELINE in reported:
        lines += [
            "By the steps that a question asks for, accuracy · tokens (sufficient: "
            + ", ".join(str(sufficient_tokens(k)) for k in range(1, MAX_STEPS + 1))
            + "):",
            "",
            *table(
                ("arm", *(f"{k} step{'s' if k > 1 else ''}" for k in range(1, MAX_STEPS + 1))),
                by_steps(reported),
            ),
            "",
            "Training, and the paper's own lengths, measured in its figure 1b [F]:",
            "",
            "![Length and reward in training](evidence/training.png)",
            "",
        ]
    lines += [
        f"Tuning, seed 0, its own questions ({len(phases['tune'])} trials), accuracy · tokens:",
        "",
        *table(("arm", "all", "hard", ""), tuning(phases["tune"])),
    ]
    return lines


def replace(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with other lines between the markers of a name."""
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
    found = re.search(re.escape(begin) + "(.*?)" + re.escape(end), page, re.DOTALL)
    if not found:
        raise ValueError(f"{PAGE} has no {begin.strip()} … {end}.")
    return page[: found.start(1)] + "\n".join([*lines, ""]) + page[found.end(1) :]


def _style(name: str) -> dict[str, str]:
    """An arm's colour and marker, the same in all plots."""
    number = list(BY_NAME).index(name)
    return {"color": f"C{number % 10}", "marker": "os^Dv*"[number % 6]}


def _label(name: str) -> str:
    return BY_NAME[name].title.replace("`", "")


def plot_frontier(phases: dict[str, list[Result]], path: Path) -> None:
    """Accuracy on hard questions by arm, and over tokens; each arm's seeds and their mean."""
    conditions = {"report": "the demo's learning rate", "stress": "twice that (hollow)"}
    shown = [phase for phase in conditions if phases[phase]]
    figure = Figure(figsize=(5 + 4.5 * len(shown), 5), layout="constrained")
    by_arm, *panels = figure.subplots(1, 1 + len(shown))
    names = [name for name in BY_NAME if name in arms_of(phases["report"])]
    for axes, phase in zip(panels, shown, strict=True):
        axes.sharey(panels[0])
        fill = {"markerfacecolor": "white"} if phase == "stress" else {}
        for name, arm in arms_of(phases[phase]).items():
            (mean,) = hard_points(arm.by_seed.values()).values()
            seeds = [hard_points([result])[name] for result in arm.by_seed.values()]
            for (tokens, accuracy), size in [*((seed, 3) for seed in seeds), (mean, 8)]:
                look = {**_style(name), **fill, "linestyle": "", "markersize": size}
                axes.plot(tokens, accuracy, **look)
                by_arm.plot(accuracy, names.index(name), **look)
        steps = phases[phase][0].steps
        sufficient = np.mean([sufficient_tokens(k) for k in steps[steps >= HARD]])
        axes.axvline(sufficient, color="grey", linestyle=":", label="sufficient")
        axes.legend(fontsize="small", loc="lower right")
        axes.set(xlabel="mean tokens", ylabel="accuracy", xscale="log", title=conditions[phase])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(6, 64)
        _finish(axes)
    by_arm.set_yticks(range(len(names)), [_label(name) for name in names])
    by_arm.invert_yaxis()
    by_arm.set(xlabel="accuracy", title="arms: mean, and each seed (small)")
    _finish(by_arm)
    write_plot(path, figure)


PAPER = {
    "GRPO": (356, 215, 200, 197, 226, 231, 249, 249, 267, 247, 241, 213),
    "DAPO": (334, 216, 212, 268, 346, 318, 318, 319, 334, 337, 296, 281),
    "LIPO": (368, 177, 180, 175, 166, 155, 141, 134, 133, 133, 124, 130),
}
"""Mean response length in the paper's training at step 1 and every 10th, measured in figure 1b."""


def plot_training(phases: dict[str, list[Result]], path: Path) -> None:
    """Mean length and reward by step, over the seeds of each arm; the paper's lengths beside."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    *panels, paper = figure.subplots(1, 3)
    for name, arm in arms_of(phases["report"]).items():
        for axes, what in zip(panels, ("tokens", "reward"), strict=True):
            curves = [result.curve[what] for result in arm.by_seed.values()]
            mean = np.mean(curves, axis=0)
            steps = range(1, len(mean) + 1)
            axes.plot(steps, mean, **_style(name), markersize=3, label=_label(name))
            axes.set(xlabel="step", ylabel=f"mean {what}")
    for name, lengths in PAPER.items():
        colour = _style(name.lower())["color"]
        paper.plot([1, *range(10, 120, 10)], lengths, color=colour, label=name)
    paper.set(xlabel="step", ylabel="mean tokens", ylim=(0, None), title="Tiny-R1V, figure 1b")
    paper.legend(fontsize="small")
    for axes in (*panels, paper):
        _finish(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    write_plot(path, figure)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def summary(phases: dict[str, list[Result]]) -> list[str]:
    """What the study says in a paragraph."""
    done = {name: len(results) for name, results in phases.items() if results}
    counts = ", ".join(f"{count} of phase `{name}`" for name, count in done.items()) or "none"
    results = phases["report"] + phases["final"]
    arms, stressed = arms_of(results), arms_of(phases["stress"])
    lipo = {name for name in arms if name.startswith("lipo")}
    if BASELINE not in arms or not lipo or lipo - stressed.keys():
        return [f"The study is under way; trials done: {counts}. Nothing is concluded yet."]
    best = arms[best_of_lipo(hard_points(results), hard_points(phases["stress"]))]
    baseline = arms[BASELINE]
    seeds = shared(best, baseline)
    hard = baseline.steps >= HARD
    loss, share = against(baseline, best, seeds, hard)
    met = share.value <= TOKENS_BAR and loss.value >= -SLACK
    surely = share.high <= TOKENS_BAR and loss.low >= -SLACK
    bar = f"at most {100 * TOKENS_BAR:.0f} % at no more than {100 * SLACK:.0f} point less"
    said = [
        f"**{best.title}** takes {percent(share)} of GRPO's tokens on hard questions, at "
        f"{points(loss)} points of accuracy ({len(seeds)} seeds; trials: {counts}). The bar, "
        f"{bar}, is {'met' if met else 'missed'}"
        + ("." if met == surely else ", but the intervals reach beyond it."),
    ]
    rivals = []
    for name, arm in arms.items():
        if name in lipo | {BASELINE}:
            continue
        seeds = shared(arm, best, baseline)
        loss, _ = against(baseline, arm, seeds, hard)
        gain, _ = against(best, arm, seeds, hard)
        longer = (arm.tokens(seeds, hard) - best.tokens(seeds, hard)).mean()
        if verdict(loss) == "sound" and (longer < 0 or (longer <= TIE and gain.value > 0)):
            rivals.append(f"{arm.title} ({100 * gain.value:+.1f} points, {longer:+.2f} tokens)")
    if rivals:
        said += [
            "",
            "Rivals that are sound with fewer tokens, or more accurate with at most one more: "
            f"{', '.join(rivals)}.",
        ]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.evidence.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    phases = read(parser.parse_args().results)
    page = PAGE.read_text(encoding="utf-8")
    page = replace(page, "summary", summary(phases))
    page = replace(page, "results", results_section(phases))
    write_whole(PAGE, page)
    if any(result.trial.arm == BASELINE for result in phases["report"]):
        plot_frontier(phases, PLOTS / "frontier.png")
        plot_training(phases, PLOTS / "training.png")


if __name__ == "__main__":
    main()
