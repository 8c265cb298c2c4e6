"""Time and memory of whole merges: beside mergekit and the disk, and of a 3B model.

    python benchmarks/merge.py peers FOLDER [--mergekit PYTHON] [--methods mean ties ...]
    python benchmarks/merge.py whole FOLDER [--experts 3] [--layers 8] [--method mean]

`peers` merges three experts of a model shaped like Qwen2-0.5B, in bf16, with amm and with mergekit
(of another environment, whose Python is given), and compares the merged weights. `whole` merges
fp32 experts of a model shaped like Qwen2.5-VL-3B, of which `--layers` language layers and vision
blocks are really there, and extrapolates to all.

Both write random checkpoints into a folder of their own in FOLDER and remove it at the end. Each
merge is a process of its own. The floor is the least that any merge does: read all input bytes
once, write the output's once and flush them, in blocks of 16 MiB, one after the other.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from amm import merge
from amm.methods import get_method, method_names, register

BLOCK = 2**24
GB = 1e9
Shapes = dict[str, tuple[int, ...]]

QWEN2 = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864}
QWEN2_KV, QWEN2_LAYERS = 128, 24
VL_LANGUAGE_LAYERS, VL_VISION_BLOCKS = 36, 32

MERGEKIT_FLAGS = ("--no-cuda", "--lazy-unpickle", "--async-write", "--quiet")
MERGEKIT = """
import json, sys, time
from mergekit.scripts.run_yaml import main
start, cpu = time.perf_counter(), time.process_time()
main(sys.argv[1:], standalone_mode=False)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}))
"""


# The checkpoints


def decoder_layer(at: int, hidden: int, inter: int, kv: int) -> Shapes:
    """Names and shapes of one decoder layer of Qwen2."""
    weights: Shapes = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inter, hidden),
        "mlp.up_proj.weight": (inter, hidden),
        "mlp.down_proj.weight": (hidden, inter),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    return {f"model.layers.{at}.{name}": shape for name, shape in weights.items()}


def decoder(layers: int, vocab: int, hidden: int, inter: int, kv: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for at in range(layers):
        shapes |= decoder_layer(at, hidden, inter, kv)
    return shapes


def vision_block(at: int) -> Shapes:
    """Names and shapes of one block of Qwen2.5-VL's vision tower."""
    hidden, inter = 1280, 3420
    shapes: Shapes = {"norm1.weight": (hidden,), "norm2.weight": (hidden,)}
    for name, rows, columns in (
        ("attn.qkv", 3 * hidden, hidden),
        ("attn.proj", hidden, hidden),
        ("mlp.gate_proj", inter, hidden),
        ("mlp.up_proj", inter, hidden),
        ("mlp.down_proj", hidden, inter),
    ):
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return {f"visual.blocks.{at}.{name}": shape for name, shape in shapes.items()}


def vision_language_model(layers: int, blocks: int) -> Shapes:
    """Names and shapes of Qwen2.5-VL-3B-Instruct's checkpoint, of some of its layers."""
    shapes = decoder(layers, 151936, 2048, 11008, 256) | {
        "visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (1280,),
        "visual.merger.mlp.0.weight": (5120, 5120),
        "visual.merger.mlp.0.bias": (5120,),
        "visual.merger.mlp.2.weight": (2048, 5120),
        "visual.merger.mlp.2.bias": (2048,),
    }
    for at in range(blocks):
        shapes |= vision_block(at)
    return shapes


def entries(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


class Normals:
    """Standard normal tensors, cut from one pool at random places: quick, and random enough."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(2**24 + 2**16, generator=self._generator)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        parts = []
        for at in range(0, count, 2**24):
            start = int(torch.randint(2**16, (), generator=self._generator))
            parts.append(self._pool[start : start + min(2**24, count - at)])
        return torch.cat(parts).reshape(shape)


def write_models(
    folder: Path, shapes: Shapes, experts: int, delta: float, dtype: torch.dtype, shards: bool
) -> list[Path]:
    """A base in bf16, and experts whose differences from it have the RMS `delta`.

    Returns:
        The base's folder, then the experts'.
    """
    normals = Normals(0)
    folders = [folder / "base", *(folder / f"expert-{i + 1}" for i in range(experts))]
    for path in folders:
        path.mkdir(parents=True)
    weights = folders[0] / "model.safetensors"
    save_file(
        {name: (0.02 * normals(shape)).bfloat16() for name, shape in shapes.items()},
        weights,
        {"format": "pt"},
    )
    for path in folders[1:]:
        expert = {}
        with safe_open(weights, "pt") as base:
            for name, shape in shapes.items():
                moved = base.get_tensor(name).float().add_(normals(shape), alpha=delta)
                expert[name] = moved.to(dtype)
        if shards:
            torch.save(expert, path / "model_world_size_1_rank_0.pt")
        else:
            save_file(expert, path / "model.safetensors", {"format": "pt"})
    return folders


def write_qwen2_files(folder: Path, layers: int) -> None:
    """The files beside the weights that mergekit asks for."""
    special = {"id": 0, "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    files: dict[str, Any] = {
        "config.json": {
            **QWEN2,
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [special | flags],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {
                "type": "WordLevel",
                "vocab": {"<|endoftext|>": 0, "word": 1},
                "unk_token": "<|endoftext|>",
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|endoftext|>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


# Measuring a process


@dataclass(frozen=True)
class Usage:
    """What a process took.

    Attributes:
        seconds: the merge alone, with all that it imports imported before.
        cpu: the same in seconds of all threads, in the program and in the system.
        peak: bytes resident at most, mapped pages of files included.
        anonymous: bytes resident at most without those, looked at every 10 ms.
        printed: what else it said of itself.
    """

    seconds: float
    cpu: float
    peak: int
    anonymous: int
    printed: dict[str, Any]


def memory_peaks(pid: int, ended: threading.Event) -> Iterator[tuple[int, int]]:
    """(peak of the resident set, resident bytes that belong to no file) until it has ended."""
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(0.01):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in fields:  # it is gone once the process has let go of its memory
            yield tuple(1024 * int(fields[name].split()[0]) for name in ("VmHWM", "RssAnon"))


def measured(command: list[str]) -> Usage:
    """Run a command that prints JSON with `seconds` and `cpu` in its last line.

    Raises:
        RuntimeError: it failed; with what it printed to its output. Its errors go to the terminal.
    """
    with tempfile.TemporaryFile("w+") as printed:
        peaks: list[tuple[int, int]] = []
        ended = threading.Event()
        process = subprocess.Popen(command, stdout=printed)
        watch = threading.Thread(target=lambda: peaks.extend(memory_peaks(process.pid, ended)))
        watch.start()
        try:
            # Waits without reaping it, so that the watch never sees another process's numbers.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            ended.set()
            watch.join()
        printed.seek(0)
        if process.wait() != 0:
            raise RuntimeError(f"{command[:2]} failed:\n{printed.read()}")
        last = json.loads(printed.read().splitlines()[-1])
    return Usage(
        last.pop("seconds"),
        last.pop("cpu"),
        max(peak for peak, _ in peaks),
        max(anonymous for _, anonymous in peaks),
        last,
    )


def child(kind: str, task: dict[str, Any]) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "child", kind, json.dumps(task)]


def run_child(kind: str, task: dict[str, Any]) -> dict[str, Any]:
    """Runs in a process of its own; see `measured`."""
    work = {"floor": run_floor, "merge": run_merge, "timed": run_timed_merge}[kind]
    start, cpu = time.perf_counter(), time.process_time()
    said = work(**task)
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, **said}


def run_floor(files: list[str], size: int, output: str) -> dict[str, Any]:
    """Read all files, and write a new one of `size` bytes to the disk."""
    block = memoryview(bytearray(BLOCK))
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
    with open(output, "wb", buffering=0) as file:
        for at in range(0, size, BLOCK):
            file.write(block[: min(BLOCK, size - at)])
        os.fsync(file.fileno())
    return {}


def run_merge(**options: Any) -> dict[str, Any]:
    merge(**options)
    return {}


def run_timed_merge(method: str, **options: Any) -> dict[str, Any]:
    """A merge that also says when each tensor was done, and the seconds inside the method."""
    inner = get_method(method)
    cuda = options["device"] != "cpu"
    inside, lock = 0.0, threading.Lock()

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any) -> Any:
            nonlocal inside
            start = time.perf_counter()
            result = call(*arguments)
            if cuda:
                torch.cuda.synchronize()
            with lock:
                inside += time.perf_counter() - start
            return result

        return timed_call

    traits = {field.name: getattr(inner, field.name) for field in dataclasses.fields(inner)}
    del traits["name"], traits["function"]
    if inner.statistics is not None:
        traits["statistics"] = timed(inner.statistics)
    register("timed", **traits)(timed(inner.function))
    done: list[tuple[str, float]] = []
    start = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(method, total=1.0)

        def progress(name: str, share: float) -> None:
            done.append((name, time.perf_counter() - start))
            bar.update(task, completed=share)

        merge(method="timed", progress=progress, **options)
    return {"inside": inside, "done": done}


# Beside mergekit

PEERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mean": (
        {"method": "mean"},
        {"merge_method": "linear", "parameters": {"weight": 1.0, "normalize": True}},
    ),
    "task_arithmetic": (
        {"method": "task_arithmetic"},
        {"merge_method": "task_arithmetic", "parameters": {"weight": 1.0, "normalize": False}},
    ),
    "ties": (
        {"method": "ties", "parameters": {"density": 0.2}},
        {
            "merge_method": "ties",
            "parameters": {"weight": 1.0, "density": 0.2, "normalize": True},
        },
    ),
    "dare": (
        {"method": "dare", "parameters": {"drop": 0.9, "then": "ties"}},
        {
            "merge_method": "dare_ties",
            "parameters": {"weight": 1.0, "density": 0.1, "normalize": True},
        },
    ),
}
"""Name → a merge of amm, and the one of mergekit that has the same definition."""


def mergekit_merge(folders: list[Path], dtype: str, peer: dict[str, Any]) -> dict[str, Any]:
    """A configuration of mergekit; the base is no model of its `linear`."""
    config = peer | {"models": [{"model": str(folder)} for folder in folders[1:]]}
    if peer["merge_method"] != "linear":
        config["base_model"] = str(folders[0])
    return config | {"dtype": dtype, "out_dtype": "bfloat16"}


def contestants(
    folders: list[Path], output: Path, options: argparse.Namespace
) -> dict[str, list[str]]:
    """Name → the command that merges into `output`."""
    files = [str(folder / "model.safetensors") for folder in folders]
    size = os.path.getsize(files[0])
    commands = {
        "floor": child("floor", {"files": files, "size": size, "output": f"{output}.bin"}),
    }
    common = {"base": str(folders[0]), "experts": [str(folder) for folder in folders[1:]]}
    for name in options.methods:
        ours, theirs = PEERS[name]
        for hashes in (True, False):
            task = common | ours | {"output": str(output), "hash_inputs": hashes}
            commands[f"amm {name}" + ", no hashes" * (not hashes)] = child("merge", task)
        if options.mergekit:
            config = output.with_name(f"{name}.yaml")
            config.write_text(json.dumps(mergekit_merge(folders, options.dtype, theirs)))
            called = [options.mergekit, "-c", MERGEKIT, str(config), str(output), *MERGEKIT_FLAGS]
            commands[rival(name)] = called
    return commands


def agreement(ours: Path, theirs: Path) -> tuple[float, int, int]:
    """(Largest difference of two merged models, entries that differ, entries)."""
    largest, different, total = 0.0, 0, 0
    with safe_open(ours, "pt") as left, safe_open(theirs, "pt") as right:
        for name in left.keys():
            a, b = left.get_tensor(name), right.get_tensor(name)
            largest = max(largest, (a.float() - b.float()).abs().max().item())
            different += int((a != b).sum())
            total += a.numel()
    return largest, different, total


def peers(options: argparse.Namespace, folder: Path, console: Console) -> None:
    shapes = decoder(options.layers, *QWEN2.values(), QWEN2_KV)
    folders = write_models(folder, shapes, 3, 1e-3, torch.bfloat16, shards=False)
    for path in folders:
        write_qwen2_files(path, options.layers)
    output, kept = folder / "merged", folder / "kept"
    kept.mkdir()
    commands = contestants(folders, output, options)
    runs: dict[str, list[Usage]] = {name: [] for name in commands}
    prepare = cool if options.cold else warm
    for turn in range(options.rounds):
        for name, command in commands.items():
            prepare([folder / "model.safetensors" for folder in folders])
            runs[name].append(measured(command))
            console.print(f"round {turn + 1}: {name}, {runs[name][-1].seconds:.1f} s", style="dim")
            if turn == 0 and name != "floor":
                os.rename(output / "model.safetensors", kept / name)
            clear(output)
    console.print(peers_table(runs, entries(shapes)))
    if options.mergekit:
        console.print(agreement_table(kept, options.methods))


def peers_table(runs: dict[str, list[Usage]], count: int) -> Table:
    table = Table(title=f"Merging 3 experts of {count / 1e9:.2f}B entries in bf16")
    columns = ("", "seconds", "/ floor", "/ mergekit", "CPU s", "/ floor", "/ mergekit")
    for column in (*columns, "peak GB", "anon. GB"):
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for name, usages in runs.items():

        def median(number: str, unit: float = 1, usages: list[Usage] = usages) -> str:
            return f"{statistics.median(getattr(usage, number) for usage in usages) / unit:.2f}"

        def times(number: str, usages: list[Usage] = usages, name: str = name) -> Iterator[str]:
            yield median(number, usages=usages)
            for peer in ("floor", rival(name)):
                ratios = [
                    getattr(ours, number) / getattr(theirs, number)
                    for ours, theirs in zip(usages, runs.get(peer, ()), strict=False)
                ]
                yield f"{statistics.median(ratios):.2f}" if ratios else ""

        memory = (median("peak", GB), median("anonymous", GB))
        table.add_row(name, *times("seconds"), *times("cpu"), *memory)
    table.caption = "medians; / mergekit: beside the same method there; anon.: without mapped files"
    return table


def rival(name: str) -> str:
    """mergekit's merge of the same definition."""
    ours = name.removeprefix("amm ").removesuffix(", no hashes")
    return f"mergekit {PEERS[ours][1]['merge_method']}" if ours in PEERS else ""


def agreement_table(kept: Path, methods: list[str]) -> Table:
    """All methods but `dare`, for which each has its own random numbers."""
    table = Table(title="The merged weights: amm beside mergekit")
    for column in ("", "largest difference", "entries that differ", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name in (name for name in methods if name != "dare"):
        largest, different, total = agreement(kept / f"amm {name}", kept / rival(name))
        table.add_row(name, f"{largest:.2e}", f"{different:,}", f"{different / total:.1e}")
    return table


# A whole 3B model


def part(name: str) -> str:
    if name.startswith("model.layers."):
        return "language layers"
    return "vision blocks" if name.startswith("visual.blocks.") else "rest"


def whole(options: argparse.Namespace, folder: Path, console: Console) -> None:
    layers = min(options.layers, VL_LANGUAGE_LAYERS)
    blocks = min(options.layers, VL_VISION_BLOCKS)
    shapes = vision_language_model(layers, blocks)
    everything = vision_language_model(VL_LANGUAGE_LAYERS, VL_VISION_BLOCKS)
    needed = entries(shapes) * (4 + 4 * options.experts)
    if needed > shutil.disk_usage(folder).free:
        sys.exit(f"{folder} needs {needed / GB:.0f} GB; give fewer --layers or another folder.")
    # In a process of its own, whose memory is free again for the merge.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
        shards = options.format == "shards"
        folders = writer.submit(
            write_models, folder, shapes, options.experts, 1e-5, torch.float32, shards
        ).result()
    write_qwen2_files(folders[0], layers)
    files = [file for path in folders for file in path.glob("model*")]
    read, written = sum(file.stat().st_size for file in files), files[0].stat().st_size
    output = folder / "merged"
    task = {"files": list(map(str, files)), "size": written, "output": f"{output}.bin"}
    floor = measured(child("floor", task))
    clear(output)
    task = {
        "base": str(folders[0]),
        "experts": [str(path) for path in folders[1:]],
        "output": str(output),
        "method": options.method,
        "device": options.device,
        "hash_inputs": options.hashes,
        "max_memory": options.max_memory,
        "parameters": options.parameters,
    }
    usage = measured(child("timed", task))

    spent = dict.fromkeys(("rest", "language layers", "vision blocks"), 0.0)
    before = 0.0
    for name, at in usage.printed["done"]:
        spent[part(name)] += at - before
        before = at
    end = usage.seconds - before
    share = entries(everything) / entries(shapes)
    full = (
        spent["rest"]
        + spent["language layers"] * VL_LANGUAGE_LAYERS / layers
        + spent["vision blocks"] * VL_VISION_BLOCKS / blocks
        + end * share
    )
    inside = usage.printed["inside"] * full / usage.seconds

    table = Table(
        title=f"{options.method} of {options.experts} experts, fp32 {options.format},"
        f" {options.device}, hashes {'on' if options.hashes else 'off'}"
    )
    columns = ("", f"run: {layers} + {blocks} layers", "extrapolated: 36 + 32")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for row in (
        ("entries", f"{entries(shapes) / 1e9:.2f}B", f"{entries(everything) / 1e9:.2f}B"),
        ("read, written", gigabytes(read, written), gigabytes(read * share, written * share)),
        ("seconds", f"{usage.seconds:.1f}", f"{full:.0f}"),
        *((f"  {name}", f"{seconds:.1f}", "") for name, seconds in spent.items()),
        ("  flush, hashes, reports", f"{end:.1f}", f"{end * share:.0f}"),
        ("inside the method, all threads", f"{usage.printed['inside']:.1f}", f"{inside:.0f}"),
        ("CPU seconds", f"{usage.cpu:.1f}", ""),
        ("bytes/s", f"{(read + written) / usage.seconds / GB:.2f} GB/s", ""),
        ("/ floor, run before", f"{usage.seconds / floor.seconds:.2f}", ""),
        ("peak of the resident set", f"{usage.peak / GB:.2f} GB", "not extrapolated"),
        ("  anonymous", f"{usage.anonymous / GB:.2f} GB", ""),
    ):
        table.add_row(*row)
    console.print(table)


def gigabytes(*sizes: float) -> str:
    return ", ".join(f"{size / GB:.1f} GB" for size in sizes)


# The command line


def warm(files: list[Path]) -> None:
    """Read files, so that they are in the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as content:
            while content.read(BLOCK):
                pass


def cool(files: list[Path]) -> None:
    """Let go of files in the page cache, so that they are read from the disk."""
    for file in files:
        with file.open("rb") as content:
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def clear(output: Path) -> None:
    """Remove what a merge or the floor wrote."""
    shutil.rmtree(output, ignore_errors=True)
    output.with_name(f"{output.name}.bin").unlink(missing_ok=True)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(run_child(sys.argv[2], json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="peers|whole")
    beside = commands.add_parser("peers", help="amm beside mergekit and the disk, 0.5B in bf16")
    beside.add_argument("--mergekit", metavar="PYTHON", help="of an environment that has mergekit")
    beside.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="that mergekit computes in; amm's is float32",
    )
    beside.add_argument("--methods", nargs="+", default=list(PEERS), choices=PEERS)
    beside.add_argument("--rounds", type=int, default=3)
    beside.add_argument("--layers", type=int, default=QWEN2_LAYERS)
    beside.add_argument("--cold", action="store_true", help="read from the disk, not from memory")
    beside.set_defaults(run=peers)
    model = commands.add_parser("whole", help="a model shaped like Qwen2.5-VL-3B")
    model.add_argument("--experts", type=int, default=3)
    model.add_argument("--layers", type=int, default=8, help="of the language model and the vision")
    model.add_argument("--method", default="mean", choices=method_names())
    model.add_argument("--parameters", type=json.loads, default={}, metavar="JSON")
    model.add_argument("--device", default="cpu")
    model.add_argument("--format", default="shards", choices=("shards", "safetensors"))
    model.add_argument("--hashes", action=argparse.BooleanOptionalAction, default=True)
    model.add_argument("--max-memory", default="3.5GB", help="amm's ceiling")
    model.set_defaults(run=whole)
    for command in (beside, model):
        command.add_argument("folder", type=Path, help="where the random checkpoints go, GBs")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        console = Console(width=118)
        load = os.getloadavg()[0]
        options.run(options, Path(folder), console)
        console.print(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
