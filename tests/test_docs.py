"""The documentation: its links lead somewhere, its commands, settings and files exist."""

import argparse
import ast
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image
from typer.main import get_command

import amm.cli
from amm.config import MergeConfig, load_config
from amm.methods import get_method, method_names
from examples.tiny_r1v.data import cli, evaluation, sources
from examples.tiny_r1v.launch.settings import RESUMES
from examples.tiny_r1v.size import frameworks
from lipo_verl.config import LipoConfig
from lipo_verl.evaluate.questions import Questions
from lipo_verl.rewards import scoring
from lipo_verl.rewards.scoring import RewardConfig
from lipo_verl.schemes import schemes

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
OWN = ("amm", "lipo_verl", "examples", "benchmarks")
RECIPE = ROOT / "examples" / "tiny_r1v"
SCRIPTS = {path.name: path for path in (*RECIPE.glob("launch/*.sh"), *RECIPE.glob("eval/*.sh"))}

OF_EASYR1 = ("examples/config.yaml", "examples/reward_function/")
"""Paths in its repository."""

PLACEHOLDER = re.compile(r"…|\.\.\.|[<>$*{}\[\]]|[A-Z]{2,}")
"""What stands for something else: `…`, `<name>`, `NAME`, `$name`, `*`, `{a,b}`."""


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def parts(page: Path) -> tuple[str, list[Block]]:
    """The prose of a page, with empty lines for its code blocks, and the blocks."""
    lines, prose, blocks = page.read_text(encoding="utf-8").splitlines(), [], []
    name, k = str(page.relative_to(ROOT)), 0
    while k < len(lines):
        start, fence = k, re.match(r"( *)```(\w*)$", lines[k])
        if fence:
            k = next(j for j in range(k + 1, len(lines)) if lines[j] == f"{fence[1]}```")
            body, language = lines[start + 1 : k], fence[2]
            k += 1
        elif lines[k].startswith("    ") and not "".join(lines[k - 1 : k]).strip():
            while k < len(lines) and (lines[k].startswith("    ") or not lines[k]):
                k += 1
            body, language = lines[start:k], "indented"
        else:
            prose.append(lines[k])
            k += 1
            continue
        prose += [""] * (k - start)
        blocks.append(Block(name, start + 1, language, "\n".join(body)))
    return "\n".join(prose), blocks


PROSE = {page: parts(page)[0] for page in PAGES}
BLOCKS = [block for page in PAGES for block in parts(page)[1]]
of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def of_language(*languages: str):
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: f"{block.page}:{block.line}")


# Links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", PROSE[page], re.M):
        text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        slug = "".join(c for c in text if c.isalnum() or c in " -_").replace(" ", "-")
        count = 0
        while (unique := f"{slug}-{count}" if count else slug) in found:
            count += 1
        found.add(unique)
    return found


@of_pages
def test_links_lead_to_files_and_headings_that_are_there(page):
    prose = re.sub(r"`[^`\n]*`", lambda code: code[0].replace("](", "] ("), PROSE[page])
    broken = []
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / path).resolve()
        for page in PAGES
        for path in re.findall(r"\]\(\s*([^)#\s]+)", PROSE[page])
    }
    assert not [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in linked]


def test_pages_named_in_code_are_there():
    files = [
        path
        for folder in (*OWN, "docker", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".sh")
    ]
    assert len(files) > 200
    missing = {
        (str(path.relative_to(ROOT)), page)
        for path in files
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8"))
        if not (ROOT / page).exists()
    }
    assert not missing


# Names of files and modules


@of_pages
def test_files_named_in_prose_are_there(page):
    folders = "|".join((*OWN, "docker", "docs", "tests"))
    named = set(re.findall(rf"`((?:\.github|{folders})/[^`\s]*)`", PROSE[page]))
    assert not [
        path
        for path in named
        if not PLACEHOLDER.search(path)
        and not path.startswith(OF_EASYR1)
        and not (ROOT / path).exists()
    ]


def test_files_named_in_code_blocks_are_there():
    pattern = r"(?<![\w/.])(?:benchmarks|docker|examples|tests)/[\w/.-]+\.(?:py|sh|txt|yaml)\b"
    named = {path for block in BLOCKS for path in re.findall(pattern, block.text)}
    assert len(named) > 5
    assert not [p for p in named if not p.startswith(OF_EASYR1) and not (ROOT / p).exists()]


# Code blocks


def dedented(block: Block) -> str:
    indent = re.match(" *", block.text)[0]
    return re.sub(f"^{indent}", "", block.text, flags=re.M)


@of_language("python")
def test_python_compiles_and_imports_what_is_there(block):
    for node in ast.walk(ast.parse(dedented(block))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OWN:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name)


@of_language("yaml")
def test_yaml_holds_settings_that_exist(block, tmp_path):
    content = yaml.safe_load(dedented(block))
    if "experts" in content:
        (tmp_path / "merge.yaml").write_text(dedented(block))
        config = load_config(tmp_path / "merge.yaml")
        config.method_settings()
        for number in range(len(config.overrides)):
            config.override_settings(number)
    elif "lipo" in content.get("algorithm", {}):
        resolved = OmegaConf.create({"data": {"max_response_length": 2048}, **content})
        LipoConfig.parse(resolved.algorithm.lipo)
    else:
        pytest.fail("no validator knows this block")


# Examples of docs/extend.md; tests/amm/test_plugins.py and tests/lipo_verl/test_schemes_outside.py
# run those of merge methods and schemes


def example(containing: str) -> str:
    (text,) = (b.text for b in BLOCKS if b.page == "docs/extend.md" and containing in b.text)
    return text


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of an example of docs/extend.md."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, containing: str):
        (tmp_path / f"{name}.py").write_text(example(containing), encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return make


@pytest.mark.parametrize(
    "package, neighbour, name, containing, listed",
    [
        ("amm.methods", "mean", "median", "class MedianSettings", "method_names()"),
        (
            *("lipo_verl.schemes", "kimi", "shortest_first", "class ShortestFirstSettings"),
            "[scheme.name for scheme in schemes()]",
        ),
    ],
)
def test_in_the_repository_it_is_the_same_file_and_a_name(
    package, neighbour, name, containing, listed, tmp_path
):
    top, folder = package.split(".")
    shutil.copytree(ROOT / top, tmp_path / top)
    folder = tmp_path / top / folder
    (folder / f"{name}.py").write_text(example(containing), encoding="utf-8")
    init = folder / "__init__.py"
    entered = f"    {neighbour},\n    {name},\n"
    init.write_text(init.read_text().replace(f"    {neighbour},\n", entered, 1))
    program = f"from {package} import *; assert {name!r} in {listed}"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)


YEARS = [("\\boxed{1990}", 1.0), ("It was \\boxed{1980}.", 0.0), ("I do not know", 0.0)]
"""Responses where 1989 is right, and their scores."""


def test_a_reward_in_a_file_of_ones_own_is_what_both_trainers_call(module):
    ours = module("year_reward", "def for_easyr1")
    assert ours.REWARD_TYPE == "batch"
    responses = [{"response": response, "ground_truth": "1989"} for response, _ in YEARS]
    assert [each["overall"] for each in ours.for_easyr1(responses)] == [s for _, s in YEARS]
    path, name = re.search(r"\.path=(\S+) \S+\.name=(\w+)", example("for_verl    #")).groups()
    for_verl = load_as_verl(path, name)
    for response, score in YEARS:
        scored = for_verl(
            data_source="x", solution_str=response, ground_truth="1989", extra_info={}, more=1
        )
        assert scored == {"score": score, "acc": score}


def load_as_verl(path: str, name: str):
    """verl's loader of such functions, without the rest of verl."""
    spec = importlib.util.find_spec("verl") or pytest.skip("no verl")
    (folder,) = spec.submodule_search_locations
    return runpy.run_path(f"{folder}/utils/import_utils.py")["load_extern_object"](path, name)


def test_a_reward_in_the_repository_is_a_file_and_two_names(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "lipo_verl.rewards.years", module("years", "TOLERANCE = 5"))
    source = Path(scoring.__file__).read_text(encoding="utf-8")
    old, new, before, added = example("+Task").splitlines()
    assert old[1:] in source and before[1:] in source
    source = source.replace(old[1:], new[1:]).replace(before[1:], f"{before[1:]}\n{added[1:]}")
    changed = types.ModuleType("lipo_verl.rewards.scoring")
    monkeypatch.setitem(sys.modules, changed.__name__, changed)
    exec(compile(source, "scoring.py", "exec"), vars(changed))
    config = changed.RewardConfig.parse({"task": "years"})
    for response, score in YEARS:
        assert changed.score_response(response, "1989", "years", config)["score"] == score
    assert changed.score_response("\\boxed{1}", "May", "years", config)["reward_error"] == 1


def picture(number: int) -> bytes:
    """A PNG of noise."""
    encoded = io.BytesIO()
    Image.effect_noise((60 + number, 60), 99).save(encoded, "PNG")
    return encoded.getvalue()


def test_a_file_of_ones_own_has_the_training_schema(module, tmp_path):
    examples = [(f"What is bar {k}?", str(k), picture(k)) for k in range(3)]
    module("my_data", "pq.write_table").write(tmp_path / "val.parquet", examples)
    questions = Questions(tmp_path / "val.parquet", RewardConfig())
    assert [(each.truth, each.task) for each in questions.all] == [
        (str(k), "relaxed") for k in range(3)
    ]
    ((_, conversations),) = questions.batches(3)
    parts = conversations[2][0]["content"]
    assert parts[0]["image_pil"].size == (62, 60)
    assert parts[1]["text"].startswith("What is bar 2?")


def test_a_source_of_the_recipe_is_a_converter_and_an_entry(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "structure", ())
    monkeypatch.setitem(sources.DEFAULT_COUNT, "structure", 1000)
    for user in (cli, evaluation):
        monkeypatch.setattr(user, "EVALUATION_SETS", ())
    module("my_charts", "MY_CHARTS = Source")
    folder = tmp_path / "hub" / "my-org" / "my-charts" / "data"
    folder.mkdir(parents=True)
    rows = [
        {
            "query": f"What is bar {k} of the chart?",
            "label": str(k) if k else "",
            "image": {"bytes": picture(k)},
        }
        for k in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    options = ["--count", "6", "--val", "2", "--source-dir", str(tmp_path / "hub")]
    assert cli.main(["structure", "--output", str(tmp_path / "data"), *options]) == 0
    made = pq.read_table(tmp_path / "data" / "structure" / "train.parquet").to_pylist()
    assert len(made) == 6
    assert {row["extra_info"]["reward_task"] for row in made} == {"relaxed"}
    manifest = json.loads((tmp_path / "data" / "structure" / "manifest.json").read_text())
    assert manifest["sources"][0]["dropped"] == {"no answer": 1}


# Commands

START = re.compile(
    r"""(?:^|(?<=[\s"'`(=/]))(?:
        (?:python3?|\$PYTHON)\ -m\ (?P<module>[\w.]+)
        | python3?\ (?P<file>[\w/]+\.py)
        | amm\ (?P<amm>(?!--)[\w-]+)
        | make\ (?P<make>[a-z][\w-]*)
        | (?P<script>[\w-]+\.sh)(?=\s)
        | docker\ (?P<docker>build|run)
        | (?P<job>sbatch)(?=\s)
    )""",
    re.X,
)


class Command(NamedTuple):
    """kind and name: what is started; words: what stands behind it, placeholders included."""

    page: str
    line: int
    kind: str
    name: str
    words: list[str]


def commands() -> Iterator[Command]:
    """Those of shell blocks, and of inline code."""
    for block in BLOCKS:
        if block.language in ("sh", "indented"):
            text = re.sub(r"\\\n *", "", block.text)
            for name, script in re.findall(r"^(\w+)=(\S+\.sh)$", text, re.M):
                text = text.replace(f"${name} ", f"{script} ")
            for line in re.sub(r"\s# .*", "", text).splitlines():
                yield from in_line(block.page, block.line, line)
    for page, prose in PROSE.items():
        for number, line in enumerate(re.findall(r"`([^`]+)`", prose)):
            yield from in_line(str(page.relative_to(ROOT)), number, " ".join(line.split()))


def in_line(page: str, number: int, line: str) -> Iterator[Command]:
    starts = list(START.finditer(line))
    for start, following in zip_longest(starts, starts[1:]):
        rest = line[start.end() : following and following.start()]
        rest = re.sub(r"\$\(.*?\)", "$…", rest)
        rest = re.split(r"(?:\s[|&;#]|;|&&|\))", rest)[0]
        try:
            words = shlex.split(rest)
        except ValueError:  # prose behind a command, with an apostrophe in it
            words = rest.split()
        yield Command(page, number, start.lastgroup, start[start.lastgroup], words)


COMMANDS = list(commands())


def of_kind(kind: str):
    chosen = [command for command in COMMANDS if command.kind == kind]
    return pytest.mark.parametrize(
        "command", chosen, ids=lambda c: f"{c.page}:{c.line} {c.name} {' '.join(c.words)}"[:80]
    )


def before_separator(words: list[str]) -> list[str]:
    return words[: words.index("--")] if "--" in words else words


class _Found(Exception):
    pass


PARSERS: dict[str, argparse.ArgumentParser | None] = {}


@pytest.fixture
def parser(monkeypatch):
    """A module's parser of its command line; None where it has none."""

    def of(module: str) -> argparse.ArgumentParser | None:
        if module not in PARSERS:

            def stop(self, *args, **rest):
                raise _Found(self)

            monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
            monkeypatch.setattr(sys, "argv", [module])
            with pytest.raises(_Found) as found:
                runpy.run_module(module, run_name="__main__")
            PARSERS[module] = found.value.args[0]
        return PARSERS[module]

    return of


HANDED_ON = ("lipo_verl.cpu", "lipo_verl.easyr1")
"""Modules whose arguments are the host's."""


@of_kind("module")
def test_modules_and_their_options_exist(command, parser):
    package = command.name.split(".")[0]
    if package not in OWN:
        assert package in ("verl", "ray", "venv", "pip", "pytest")
        if package == "ray":
            check_options(pytest.importorskip(command.name).cli, command.words)
        return
    assert importlib.util.find_spec(command.name), command.name
    if command.name in HANDED_ON or not command.words:
        return
    if command.name == "amm":
        return check_amm(command.words)
    known = parser(command.name)._option_string_actions
    words = before_separator(command.words)
    for word, value in zip_longest(words, words[1:], fillvalue=""):
        option, _, given = word.partition("=")
        if option.startswith("-"):
            assert option in known, option
            check_choice(known[option], given or value)
    (first, *_) = parser(command.name)._positionals._group_actions or [None]
    if first is not None and first.choices and not words[0].startswith("-"):
        check_choice(first, words[0])


def check_choice(action: argparse.Action, value: str) -> None:
    if action.choices and action.nargs is None and not PLACEHOLDER.search(value):
        assert value in action.choices, f"{value}: {list(action.choices)}"


@of_kind("file")
def test_programs_and_their_options_exist(command):
    if command.name == "run.py":
        return  # VLMEvalKit's
    source = (ROOT / command.name).read_text(encoding="utf-8")
    for word in command.words:
        if word.strip("[").startswith("--"):
            assert f'"{word.strip("[")}"' in source


def check_amm(words: list[str]) -> None:
    check_options(get_command(amm.cli.app), words)
    changes = [value for word, value in zip(words, words[1:], strict=False) if word == "--set"]
    if not any(map(PLACEHOLDER.search, changes)):
        amm.cli._load(RECIPE / "merge.yaml", changes)


def check_options(known: click.Command, words: list[str]) -> None:
    while words and "commands" in vars(known):
        known, words = known.commands[words[0]], words[1:]
    options = {option for parameter in known.params for option in parameter.opts} | {"-h", "--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


@of_kind("amm")
def test_amms_commands_options_and_settings_exist(command):
    check_amm([command.name, *command.words])


@of_kind("make")
def test_makes_targets_and_variables_exist(command):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{command.name}:", makefile, re.M)
    for variable in re.findall(r"\b([A-Z][A-Z0-9_]+)=", " ".join(command.words)):
        assert f"$({variable})" in makefile


@of_kind("script")
def test_scripts_options_and_their_choices_exist(command):
    name, words = command.name, before_separator(command.words)
    if name == "slurm.sh":
        assert not {"--nodes", "--gpus", "--until"} & set(words)  # sbatch's there
        recipe = words[:1] == ["recipe"]
        name, words = ("recipe.sh", words[1:]) if recipe else ("train.sh", words)
    options = re.search(r"^OPTIONS=\((.*?)\)", SCRIPTS[name].read_text(), re.M | re.S)[1].split()
    groups = RECIPE / "config" / "verl" / "tiny_r1v"
    for word, value in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("-"):
            assert word in options
        group = word.strip("-").removesuffix("s")
        if group in ("algorithm", "expert", "profile") and not PLACEHOLDER.search(value):
            group = group.replace("profile", "size")
            for choice in value.split(","):
                assert (groups / group / f"{choice}.yaml").exists(), choice


DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def after(option: str, words: list[str]) -> list[str]:
    return [value for word, value in zip(words, words[1:], strict=False) if word == option]


@of_kind("docker")
def test_images_are_built_and_run_as_the_dockerfile_has_them(command):
    def lines(pattern: str) -> list[str]:
        return re.findall(rf"^{pattern}", DOCKERFILE, re.M)

    assert set(after("--target", command.words)) <= set(lines(r"FROM .* AS (\w+)"))
    arguments = {value.partition("=")[0] for value in after("--build-arg", command.words)}
    assert arguments <= set(lines(r"ARG (\w+)"))
    volumes = [folder for found in lines("VOLUME (.*)") for folder in json.loads(found)]
    for mount in after("--volume", command.words):
        assert any(Path(mount.rpartition(":")[2]).is_relative_to(volume) for volume in volumes)
    tags = {tag for each in COMMANDS if each.kind == "docker" for tag in after("--tag", each.words)}
    assert command.name == "build" or tags & set(command.words)
    assert set(re.findall(r"docker(?:-daemon|d)://([\w-]+):latest", TEXT)) <= tags


OF_HOSTS = {"constraint", "dependency", "ipc", "network", "no-deps", "parsable", "shm-size"}
"""Options of docker, pip and sbatch."""


@of_kind("job")
def test_jobs_have_options_that_the_script_has_too(command):
    known = re.findall(r"^#SBATCH --([\w-]+)", SCRIPTS["slurm.sh"].read_text(), re.M)
    assert {word[2:] for word in command.words if word.startswith("--")} <= {*known, *OF_HOSTS}


def test_variables_in_front_of_launchers_are_theirs():
    launchers = "".join(script.read_text() for script in SCRIPTS.values())
    named = set(re.findall(r"([A-Z_]+)=(?:'[^']*'|\S+) (?:sbatch|\S*\w\.sh)\b", TEXT))
    assert len(named) > 2
    assert named <= set(re.findall(r"[A-Z_]+", launchers))


def test_options_named_in_prose_are_words_of_our_programs():
    words = {
        word.replace("_", "-")
        for folder in OWN
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh")
        for word in re.findall(r"[a-z][\w-]+", path.read_text(encoding="utf-8"))
    }
    named = set(re.findall(r"`--([a-z][a-z-]+)(?=[`\s=])", "\n".join(PROSE.values())))
    assert len(named) > 30
    assert named <= words | OF_HOSTS


def test_extras_exist():
    extras = set(importlib.metadata.metadata("lipo-verl").get_all("Provides-Extra"))
    text = "\n".join(page.read_text() for page in PAGES)
    named = {extra for group in re.findall(r"'\.\[([\w,]+)\]'", text) for extra in group.split(",")}
    assert len(named) > 5 and named <= extras


# Settings

TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
OF_EXTEND = {"scheme": "shortest_first", "prize": "0.5"}
"""The scheme that docs/extend.md adds."""


def given(section: str) -> list[tuple[str, str | None]]:
    """Settings of a section as `section.key=value`; None for a value that is a placeholder."""
    found = re.findall(rf"{section}\.([\w.]+)=([^\s`'\"\\]+)", TEXT)
    plain = {(k, None if PLACEHOLDER.search(v) else v.rstrip(".,;:)")) for k, v in found}
    return sorted(plain - OF_EXTEND.items(), key=str)


@pytest.mark.parametrize("key, value", given(r"algorithm\.lipo"))
def test_settings_of_lipo_on_command_lines_are_valid(key, value):
    assert key in type(LipoConfig()).model_fields
    LipoConfig.parse({key: yaml.safe_load(value)} if value else {})


@pytest.mark.parametrize("key, value", given(r"custom_reward_function\.reward_kwargs"))
def test_settings_of_rewards_on_command_lines_are_valid(key, value):
    assert key in RewardConfig.model_fields
    RewardConfig.parse({key: value} if value else {})


def test_settings_of_verl_exist_in_verl():
    spec = importlib.util.find_spec("verl") or pytest.skip("no verl")
    (folder,) = spec.submodule_search_locations
    known = set()
    for file in (
        Path(folder) / "trainer" / "config" / "_generated_ppo_trainer.yaml",
        RECIPE / "config" / "verl" / "tiny_r1v" / "common.yaml",
    ):
        known |= keys(yaml.safe_load(file.read_text(encoding="utf-8")))
    named = set(re.findall(r"(?<![+\w.])(?:actor_rollout_ref|reward)\.(?!py\b)[\w.]*\w", TEXT))
    for command in COMMANDS:
        of_verl = command.name in ("verl.trainer.main_ppo", "lipo_verl.cpu", *SCRIPTS)
        if of_verl and "easyr1" not in command.words:
            keys_given = (word.partition("=")[0] for word in command.words if "=" in word)
            named |= {key for key in keys_given if re.match(r"[a-z]\w*\.", key)}
    named = {key for key in named if not key.startswith("algorithm.lipo.")}
    assert len(named) > 15
    assert named <= known


def test_settings_of_easyr1_are_those_of_the_recipe():
    """EasyR1 itself takes the recipe's: tests/examples/tiny_r1v/test_easyr1_config.py."""
    known = set(frameworks.KEYS["easyr1"]) | set(RESUMES)
    for file in (RECIPE / "config" / "easyr1").rglob("*.yaml"):
        known |= keys(yaml.safe_load(file.read_text(encoding="utf-8")))
    key = r"(?:algorithm|data|trainer|worker)\.[\w.]*\w"
    easyr1 = (ROOT / "docs" / "easyr1.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w.+])({key})(?=[=`])", easyr1))
    prose = (rf"EasyR1(?:'s `main`:)? `({key})", rf"`({key})` in EasyR1")
    for pattern in (*prose, r"(?<![\w.])(worker\.[\w.]*\w)"):
        named |= set(re.findall(pattern, TEXT))
    assert len(named) > 10
    assert named <= known


def keys(config: dict, prefix: str = "") -> set[str]:
    """The dotted keys of a configuration, groups included."""
    found = set()
    for key, value in config.items():
        found |= {f"{prefix}{key}"} | (
            keys(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
        )
    return found


def table(page: str, header: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n| {header}")
    body = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


@pytest.mark.parametrize(
    "page, header, settings",
    [
        ("lipo.md", "key | type, range | default", type(LipoConfig())),
        ("rewards.md", "key | default", RewardConfig),
        ("amm.md", "key | default | values", get_method("amm").settings),
        ("amm.md", "key | default | |", MergeConfig),
    ],
)
def test_tables_have_every_setting_and_its_default(page, header, settings):
    rows = table(page, header)
    column = 1 + ("range" in header)
    fields = settings.model_fields
    documented = [name for row in rows for name in names(row[0])]
    assert set(documented) | ({"task", "tasks"} if page == "rewards.md" else set()) == set(fields)
    if settings is MergeConfig:
        return  # its defaults are words and sizes
    for row in rows:
        for name, default in zip(names(row[0]), row[column].split(", "), strict=True):
            assert fields[name].default == written(default), name


def written(value: str):
    value = value.strip("`")
    return float(value) if re.fullmatch(r"[\d.]+(e-?\d+)?", value) else yaml.safe_load(value)


def test_the_table_of_methods_has_every_method_and_its_defaults():
    rows = table("methods.md", "method | what")
    assert sorted(name for row in rows for name in names(row[0])) == sorted(method_names())
    for row in rows:
        fields = get_method(names(row[0])[0]).settings.model_fields
        for name, default in re.findall(r"`(\w+)` `?([^\s,(`]+)", row[3]):
            if name in fields and not default.startswith("("):
                assert fields[name].default == written(default), (row[0], name)


def test_the_table_of_schemes_has_every_scheme():
    rows = table("schemes.md", "`scheme` | shaped reward")
    assert sorted(names(row[0])[0] for row in rows) == sorted(scheme.name for scheme in schemes())
