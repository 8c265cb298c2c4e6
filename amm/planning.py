"""What a merge would do, and whether it makes sense, before any of its work.

Problems are what would make the merged model wrong; warnings are what its user should know.
Thresholds [ours]: fine-tuning leaves cos(W_i, W_0) near 1 (‖τ_i‖/‖W_0‖ below 0.1), a model that
was trained from other initial weights has cosine 0 (‖τ_i‖/‖W_0‖ = 1.4).
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amm.checkpoints import Checkpoint
from amm.checkpoints.donor import donor_folder, other_files
from amm.checkpoints.files import JSON_LIMIT, is_there, parse_json, read_small
from amm.checkpoints.fsdp import FsdpCheckpoint
from amm.checkpoints.hub import may_be_the_same
from amm.checkpoints.keys import (
    Difference,
    advice,
    counted,
    layout_of,
    same_tensor,
)
from amm.checkpoints.union import unite_files
from amm.checkpoints.writer import disk_free, too_full
from amm.config import MergeConfig
from amm.engines.job import Job
from amm.errors import InputError
from amm.methods import Method
from amm.methods.registry import Place, TensorBlocks
from amm.models import Models, open_models
from amm.report import REPORT_FILES
from amm.settings import Settings, validated
from amm.survey import Surveyed, group_of, kind_of, survey, total

FOREIGN_COSINE = 0.5
"""Below this cos(W_i, W_0) of some kind of linear layer, an expert isn't of this base."""

FAR_RATIO = 0.3
"""Above this ‖τ_i‖/‖W_0‖ of some kind of linear layer, an expert is worth a look."""

CENTRE_RATIO = 0.8
"""Another model is the centre if its summed squared distances are below this share of the base's.

For K equal, unrelated deltas a swapped base has K/(2K − 1): 0.67 for two experts, 0.5 for many.
"""

UNRELATED = 0.35
"""Deltas from a true base have cosines below this; deltas from one of the experts have 0.5."""

SHARED_PART = 0.5
"""Above this mean cosine between experts, they share a part that is counted K times in a sum."""

TOKENIZER_LIMIT = 2**26
"""Bytes of a tokenizer.json that are compared; Gemma's, one of the largest, has 2²⁵."""

_STEP = re.compile(r"(?i)((checkpoint|ckpt|step|epoch|iter|iteration)s?[-_=]?)\d+(?![^/])|\d+$")
_REVISION = re.compile(r"(?<=/snapshots/)[^/]+")

PROBE_SIDE = 384
"""Shorter side of the small layer that a method is timed on."""


@dataclass(frozen=True)
class KindPlan:
    """What is done with the tensors that differ in their layer number only.

    Attributes:
        kind: their name, with `*` for the number.
        count: number of tensors.
        shape: shape of the first; those of vision towers may vary.
        entries: of all together.
        rho: ρ = K · out / in, of linear layers.
        rule: the method that merges them, `base` (left as it is), `unchanged` (no expert moved
            them, or their dtype can't be merged), or `copied from expert N`, which alone has them.
        seconds: estimated computing time.
    """

    kind: str
    count: int
    shape: tuple[int, ...]
    entries: int
    rho: float | None
    rule: str
    seconds: float


@dataclass
class Plan:
    """What a merge would do.

    Attributes:
        problems: what would make the result wrong; sentences.
        warnings: what is worth knowing; sentences.
        inputs: for each model, the base first: path, what was found, head.
        differences: tensors whose names, shapes or dtypes don't fit.
        kinds: what is done with each kind of tensor.
        donor: folder that the other files are copied from, or None.
        copied_files: what is copied from it.
        left_out: what isn't, the weights of the base apart.
        frozen: group → for each expert, (tensors that it left as they were, tensors).
        deep: whether all entries were read, or a sample of each tensor.
        memory: estimated bytes that the tensor with the largest need takes.
        max_memory: the ceiling that was set, bytes.
        disk_needed: bytes of the merged weights, and of the method's side file.
        disk_free: bytes free where the output goes.
        seconds: estimated computing time, without reading and writing.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    kinds: list[KindPlan] = field(default_factory=list)
    donor: str | None = None
    copied_files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    frozen: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    deep: bool = False
    memory: int = 0
    max_memory: int = 0
    disk_needed: int = 0
    disk_free: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the merge."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"ok": self.ok, **asdict(self)}


def plan(
    base: str | Path,
    experts: Sequence[str | Path | Mapping[str, Any]],
    *,
    output: str | Path = "merged",
    deep: bool = False,
    **settings: Any,
) -> Plan:
    """Look at a merge before it is run; writes nothing.

    Args:
        base: the model that the experts were trained from.
        experts: the experts.
        output: where the merged model would go.
        deep: read all weights, not a sample of each tensor.
        **settings: the other keys of `amm.MergeConfig`.

    Raises:
        InputError: an input can't be read at all, or a setting is wrong.
    """
    values = {"base": base, "experts": experts, "output": output, **settings}
    return plan_config(validated(MergeConfig, values, "plan"), deep=deep)


def plan_config(config: MergeConfig, *, deep: bool = False) -> Plan:
    """Look at a validated merge; see `plan`."""
    models = open_models(config, sampled=not deep)
    base, experts, matching = models.base, models.experts, models.matching
    found = Plan(deep=deep, max_memory=config.max_memory)
    found.inputs = [_input(checkpoint, deep) for checkpoint in (base, *experts)]
    found.differences = matching.differences
    _report_differences(found)
    surveyed = list(survey(base, experts, matching.names, deep=deep))
    _examine(found, config, models, surveyed)
    if not found.differences:
        _plan_work(found, surveyed, config, models)
    return found


def doubts(job: Job) -> list[str]:
    """What a plan, by a sample of each tensor, would say against a merge or warn of; sentences."""
    found, surveyed = Plan(), []
    for tensor in survey(job.base, job.experts, job.matching.names, deep=False):
        surveyed.append(tensor)
        job.drop_pages()
    _examine(found, job.config, job.models, surveyed)
    return [*found.problems, *found.warnings]


def _examine(
    found: Plan, config: MergeConfig, models: Models, surveyed: Sequence[Surveyed]
) -> None:
    """Report what the inputs' files and weights say of themselves."""
    base, experts, matching = models.base, models.experts, models.matching
    found.warnings += matching.notes
    parted = [bool(carried or matching.owners) for carried in matching.carried]
    whole = [expert for expert, part in zip(experts, parted, strict=True) if not part]
    _compare_files(found, base, experts, whole)
    _report_other_bases(found, config.base, base, experts)
    _report_other_files(found, config.copy_files_from, models)
    _report_weights(found, surveyed, base, experts)


def _report_other_bases(
    found: Plan, given: Path | str, base: Checkpoint, experts: Sequence[Checkpoint]
) -> None:
    for expert in experts:
        said = getattr(expert, "trained_on", None)
        if said and not may_be_the_same(said, given, base.path):
            found.warnings.append(
                f"{expert.path} says that it was trained on {said}, and it is added to {given}: if"
                " these aren't the same weights, what the one learned beyond the other is missing."
                " Name that model as base, or merge the adapter into it with PEFT and give the"
                " result."
            )


def _report_other_files(found: Plan, named: Path | None, models: Models) -> None:
    donor = donor_folder(named, models.base)
    if donor is None:
        return
    files = other_files(donor)
    found.donor, found.copied_files, found.left_out = str(donor), files.copied, files.left_out
    found.warnings += files.warnings(donor)
    try:
        united = unite_files(donor, models.folders, named=named is not None, own=REPORT_FILES)
        found.warnings += united.warnings
    except InputError as error:
        found.problems.append(str(error))


def _input(checkpoint: Checkpoint, deep: bool) -> dict[str, str]:
    return {
        "path": str(checkpoint.path),
        "found": checkpoint.describe(),
        "head": _head(checkpoint, deep),
    }


def _head(checkpoint: Checkpoint, deep: bool) -> str:
    found = layout_of(checkpoint)
    heads = [key for key in found.vocabulary - found.embeddings if key.endswith(".weight")]
    if not found.embeddings:
        return "none" if not heads else "its own"
    if not heads:
        return "tied to the embedding"
    same = functools.partial(same_tensor, checkpoint, sampled=not deep)
    if all(any(same(head, e) for e in found.embeddings) for head in heads):
        return "stored, equal to the embedding"
    return "its own"


def _report_differences(found: Plan) -> None:
    experts: dict[str, list[Difference]] = defaultdict(list)
    for difference in found.differences:
        experts[difference.expert].append(difference)
    for expert, listed in experts.items():
        found.problems.append(
            f"{expert}: {counted(listed)} fit the base (see the table of differences)."
            f" {advice(listed)}"
        )


def _compare_files(
    found: Plan, base: Checkpoint, experts: Sequence[Checkpoint], whole: Sequence[Checkpoint]
) -> None:
    for expert in experts:
        try:
            configs = _differing("config.json", JSON_LIMIT, base, expert)
            tokenizers = _differing("tokenizer.json", TOKENIZER_LIMIT, base, expert)
        except InputError as error:
            found.warnings.append(f"what can't be read wasn't compared: {error}")
            continue
        mine, theirs = map(_architecture, configs)
        for key in sorted(mine.keys() & theirs.keys()):
            if mine[key] != theirs[key] and (expert in whole or key == "vocab_size"):
                found.problems.append(
                    f"{expert.path}: its config.json has {key} {_short(theirs[key])}, the"
                    f" base's {_short(mine[key])}; they aren't the same model."
                )
        words, others = map(_vocabulary, tokenizers)
        if words is not None and others is not None and words != others:
            found.warnings.append(
                f"{expert.path}: its tokenizer.json maps words to other numbers than the base's;"
                " the merged model gets the one of copy_files_from, by default the base's."
            )


def _short(value: object) -> str:
    return str(value)[:200]


def _differing(name: str, limit: int, base: Checkpoint, expert: Checkpoint) -> list[dict[str, Any]]:
    """A file of both models, parsed; two empty ones where one has none, or both the same."""
    folders = [f for f in (base.files_folder, expert.files_folder) if f is not None]
    if len(folders) < 2 or not all(is_there(folder / name) for folder in folders):
        return [{}, {}]
    what = f"a model's {name}"
    texts = [read_small(folder / name, what, limit) for folder in folders]
    if texts[0] == texts[1]:
        return [{}, {}]
    return [parse_json(t, folder / name, what) for t, folder in zip(texts, folders, strict=True)]


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    both = {**(text if isinstance(text, dict) else {}), **config}
    vocabulary = both.get("vocab_size")
    values = {
        "model_type": config.get("model_type"),
        "architectures": config.get("architectures"),
        "vocab_size": vocabulary,
    }
    return {key: value for key, value in values.items() if value is not None}


def _vocabulary(
    tokenizer: dict[str, Any],
) -> tuple[dict[str, int], list[tuple[str, ...]]] | None:
    """Number of each word, and the merges, however the version that saved them writes them down."""
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        return None
    words, merges = model.get("vocab"), model.get("merges")
    if isinstance(words, list):  # Unigram: pairs of word and score
        words = {str(pair[0]): i for i, pair in enumerate(words) if isinstance(pair, list) and pair}
    numbers = dict(words) if isinstance(words, dict) else {}
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            numbers[str(token.get("content"))] = token.get("id")
    pairs = merges if isinstance(merges, list) else []
    return numbers, [
        tuple(p.split(" ") if isinstance(p, str) else map(str, p))
        for p in pairs
        if isinstance(p, str | list)
    ]


def _report_weights(
    found: Plan, surveyed: Sequence[Surveyed], base: Checkpoint, experts: Sequence[Checkpoint]
) -> None:
    for tensor in surveyed:
        if not tensor.products.finite:
            found.problems.append(
                f"{tensor.name} has entries that aren't finite (NaN or infinite), in the base or in"
                " an expert; use an earlier checkpoint of that run."
            )
    sound = [tensor for tensor in surveyed if tensor.products.finite]
    if not sound:
        return
    groups: dict[str, list[Surveyed]] = defaultdict(list)
    for tensor in sound:
        groups[group_of(tensor.name)].append(tensor)
    found.frozen = {
        group: [(sum(t.frozen(i) for t in tensors), len(tensors)) for i in range(len(experts))]
        for group, tensors in sorted(groups.items())
    }
    _report_distance(found, sound, experts)
    _report_geometry(found, sound, base, experts)


def _report_distance(
    found: Plan, surveyed: Sequence[Surveyed], experts: Sequence[Checkpoint]
) -> None:
    kinds: dict[str, list[Surveyed]] = defaultdict(list)
    for tensor in surveyed:
        if tensor.linear:
            kinds[kind_of(tensor.name)].append(tensor)
    measured = {kind: total(t.products for t in tensors) for kind, tensors in kinds.items()}
    for i, expert in enumerate(experts):
        if not measured:
            break
        nearest = {kind: float(p.base_cosines[i]) for kind, p in measured.items()}
        ratios = {kind: float(p.relative_norms[i]) for kind, p in measured.items()}
        least, most = min(nearest, key=nearest.__getitem__), max(ratios, key=ratios.__getitem__)
        if nearest[least] < FOREIGN_COSINE:
            found.problems.append(
                f"{expert.path}: {least} has cosine {nearest[least]:.2f} with the base's (‖τ‖ is"
                f" {ratios[least]:.2g} ‖W_0‖), where fine-tuning leaves it near 1; it wasn't"
                " trained from this base. Name the base that it was trained from."
            )
        elif ratios[most] > FAR_RATIO:
            found.warnings.append(
                f"{expert.path}: in {most} ‖τ‖ is {ratios[most]:.2g} ‖W_0‖, where fine-tuning stays"
                " below 0.1; check that it was trained from this base."
            )


def _report_geometry(
    found: Plan, surveyed: Sequence[Surveyed], base: Checkpoint, experts: Sequence[Checkpoint]
) -> None:
    everything = total(tensor.products for tensor in surveyed)
    distances = everything.distances
    seen = "" if found.deep else " in what was sampled"
    for i, expert in enumerate(experts):
        if distances[0, i + 1] == 0:
            found.warnings.append(f"{expert.path} is identical to the base{seen}.")
        for j in range(i):
            scale = distances[0, 1:].max()
            if 0 < scale and distances[i + 1, j + 1] <= 1e-12 * scale:
                found.warnings.append(f"{expert.path} is identical to {experts[j].path}{seen}.")
    centre = likely_base(distances)
    runs = [_run_of(expert.path) for expert in experts]
    if centre and runs.count(runs[centre - 1]) == 1:
        found.problems.append(
            f"{experts[centre - 1].path} is nearer to all the other models than the base"
            f" {base.path} is: the two may be swapped, or the experts were trained from a model"
            " nearer to them than this base. Name the model that they were trained from as base."
        )
    elif not centre and len(experts) > 1:
        off = everything.cosines[~torch.eye(len(experts), dtype=torch.bool)]
        if off.mean() > SHARED_PART:
            found.warnings.append(
                f"the experts' task vectors have a mean cosine of {off.mean():.2f}: they share a"
                " part that a sum counts several times. If they were trained from a common model"
                " that was itself trained from this base, name that model as base."
            )
    if isinstance(base, FsdpCheckpoint):
        plain = [str(e.path) for e in experts if not isinstance(e, FsdpCheckpoint)]
        if plain:
            found.warnings.append(
                f"the base {base.path} is a checkpoint of a training run, and {', '.join(plain)}"
                " isn't; check that base and expert aren't swapped."
            )


def _run_of(path: Path) -> str:
    """The same for checkpoints of one run: a path without the numbers of steps, or of the Hub's
    cache without the revision. Later ones are reached through earlier ones, as from a base."""
    place = _REVISION.sub("", path.resolve().as_posix())
    return _STEP.sub(lambda found: found[1] or "", place)


def likely_base(distances: torch.Tensor) -> int:
    """Which of several models the others were trained from, by their distances.

    Seen from the model that K ≥ 2 experts were trained from, the others lie in unrelated
    directions, and it is the nearest to all. With one expert there is nothing to tell.

    Args:
        distances: ‖W_i − W_j‖², (K + 1) × (K + 1), the presumed base first.

    Returns:
        0 unless another model is clearly the centre; then its index.
    """
    sums = distances.sum(dim=1)
    centre = int(sums.argmin())
    if len(distances) < 3 or sums[centre] >= CENTRE_RATIO * sums[0]:
        return 0
    others = [i for i in range(len(distances)) if i != centre]
    cosines = [
        float(
            (distances[centre, i] + distances[centre, j] - distances[i, j])
            / (2 * (distances[centre, i] * distances[centre, j]).sqrt())
        )
        for i in others
        for j in others
        if i < j
    ]
    return centre if all(abs(cosine) < UNRELATED for cosine in cosines) else 0


def _plan_work(
    found: Plan, surveyed: Sequence[Surveyed], config: MergeConfig, models: Models
) -> None:
    try:
        job = Job(config, models)
    except InputError as error:
        found.problems.append(str(error))
        return
    experts = len(job.experts)
    still = {t.name for t in surveyed if all(t.frozen(i) for i in range(experts))}
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in job.entries:
        rule = "unchanged" if entry.name in still else job.rule(entry.name).name
        kinds[kind_of(entry.name), rule].append(entry.name)
    timer = Timer(experts, config)
    for (kind, rule), keys in kinds.items():
        does, matrix, seconds = job.rule(keys[0]), job.matrix(keys[0]), 0.0
        if does.method is not None and rule != "unchanged":
            seconds = sum(
                len(job.blocks(key)) * timer.seconds(does.method, does.settings, job.unit(key))
                if does.whole
                else timer.seconds(does.method, does.settings, job.base.shape(key))
                for key in keys
            )
        found.kinds.append(
            KindPlan(
                kind=kind,
                count=len(keys),
                shape=job.base.shape(keys[0]),
                entries=sum(math.prod(job.base.shape(key)) for key in keys),
                rho=experts * matrix[0] / matrix[1] if matrix else None,
                rule=rule,
                seconds=seconds,
            )
        )
    found.seconds = sum(kind.seconds for kind in found.kinds)
    needs = [job.need(block) for entry in job.entries for block in job.blocks(entry.name)]
    found.memory = max(needs, default=0)
    found.disk_needed = sum(job.size(entry.name) for entry in job.entries)
    found.disk_free = disk_free(config.output)
    if found.disk_free < found.disk_needed:
        found.problems.append(too_full(config.output, found.disk_needed))


class Timer:
    """Estimates computing time from the method itself, run on smaller random tensors.

    On an out × in matrix it takes a · entries + b · operations, where the operations grow as
    out · in · min(in, 2K · out) (see `amm.methods.descent`): a and b follow from two sizes of the
    same proportions, and b becomes smaller as products become larger, which is measured too. On
    other tensors the time grows as their entries.
    """

    def __init__(self, experts: int, config: MergeConfig) -> None:
        self.experts = experts
        self.device = torch.device(config.device)
        self.dtype = getattr(torch, config.compute_dtype)
        self.probes: dict[tuple[str, int, int], float] = {}

    def seconds(self, method: Method, settings: Settings, shape: tuple[int, ...]) -> float:
        if method.elementwise or len(shape) != 2:
            unit = (64, 4096)
            return math.prod(shape) * self.probe(method, settings, unit) / math.prod(unit)
        if min(shape) <= PROBE_SIDE:
            return self.probe(method, settings, shape)
        small, large = (_scaled(shape, side / min(shape)) for side in (PROBE_SIDE // 2, PROBE_SIDE))
        times = np.array([self.probe(method, settings, unit) for unit in (small, large)])
        work = np.array([self._work(unit) for unit in (small, large)])
        per_entry, per_operation = np.linalg.solve(work, times)
        if per_operation < 0:
            per_entry, per_operation = times[1] / work[1, 0], 0.0
        elif per_entry < 0:
            per_entry, per_operation = 0.0, times[1] / work[1, 1]
        entries, operations = self._work(shape)
        return float(per_entry * entries + per_operation * operations / self.gemm_speedup)

    def _work(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Entries and operations of a matrix."""
        out, columns = shape
        return out * columns, out * columns * min(columns, 2 * self.experts * out)

    def probe(self, method: Method, settings: Settings, unit: tuple[int, int]) -> float:
        """Seconds that the method takes on random task vectors of this shape."""
        key = (method.name, *unit)
        if key not in self.probes:
            generator = torch.Generator().manual_seed(0)
            count = self.experts + method.base
            vectors = torch.randn(count, *unit, generator=generator, dtype=self.dtype)
            if not method.elementwise:
                vectors = vectors.to(self.device)
            statistics = method.measure(TensorBlocks(vectors, base=method.base), settings)
            table = None if method.table is None else torch.ones(())
            place = Place("probe", 0, statistics, table)
            self.probes[key] = self._time(lambda: method(vectors, settings, place))
        return self.probes[key]

    def _time(self, work: Callable[[], Any]) -> float:
        """The shorter of two runs: the first one also loads libraries."""
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            taken.append(time.perf_counter() - start)
        return min(taken)

    @cached_property
    def gemm_speedup(self) -> float:
        """How much faster a product of real size runs than one of the probe's, per operation."""
        rates = []
        for side in (PROBE_SIDE, 4 * PROBE_SIDE):
            matrix = torch.ones(side, side, dtype=self.dtype, device=self.device)
            rates.append(side**3 / self._time(partial(torch.matmul, matrix, matrix)))
        return max(1.0, rates[1] / rates[0])


def _scaled(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    rows, columns = shape
    return round(rows * factor), round(columns * factor)
