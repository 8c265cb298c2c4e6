"""The command line: what it prints, and with which exit code."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from pico_models import SHAPES, load_folder, save_folder

from amm import __version__
from amm.cli import main
from amm.errors import MergeInterrupted, UnfinishedError


@pytest.fixture
def amm(monkeypatch, capsys, tmp_path):
    """Run `amm …` in `tmp_path`: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["amm", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return run


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def config(pico, tmp_path):
    base, experts = pico
    return {
        "base": str(base),
        "experts": list(map(str, experts)),
        "output": "out",
        "parameters": {"steps": 2},
    }


@pytest.mark.slow
def test_merges_and_says_where_the_result_is(config, tmp_path):
    """In a process of its own, as a user runs it."""
    write(tmp_path / "merge.yaml", **config)
    command = [sys.executable, "-m", "amm", "merge", "merge.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    merged, memory, warnings = done.stdout.splitlines()
    assert merged == "Merged model: out"
    assert memory.startswith("Peak memory:") and "GiB" in memory
    assert warnings.split() == ["Warnings:", "0"]
    assert set(load_folder(tmp_path / "out")) == set(SHAPES)


def test_warnings_are_counted_and_listed_in_the_card(amm, config, tmp_path):
    write(tmp_path / "merge.yaml", **config | {"parameters": {"scale": 9.0}})
    code, output, errors = amm("merge", "merge.yaml")
    assert code == 0 and len(errors.splitlines()) == 3 and "times ‖Σ τ_i‖" in errors
    assert output.splitlines()[-1].split(maxsplit=1)[1] == "3, listed in its README.md"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "wudy"}, "Error: unknown merge method 'wudy'. Did you mean 'wudi'?"),
        ({"metod": "amm"}, "unknown key 'metod'. Did you mean 'method'?"),
        ({"parameters": {"step": 1}}, "unknown key 'step'. Did you mean 'steps'?"),
        ({"base": "nowhere"}, "Error: nowhere doesn't exist; check the path."),
        ({"copy_files_from": "nowhere"}, "nowhere isn't a folder"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(amm, config, tmp_path, change, message):
    write(tmp_path / "merge.yaml", **config | change)
    code, output, errors = amm("merge", "merge.yaml")
    assert (code, output) == (2, "")
    assert message in errors and errors.startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_missing_config_and_unknown_command(amm):
    code, _, errors = amm("merge", "no.yaml")
    assert (code, errors) == (2, "Error: no.yaml can't be read: No such file or directory.\n")
    code, _, errors = amm("mrge")
    assert code == 2 and "Did you mean 'merge'?" in errors


def test_help_lists_the_commands_and_version_is_the_packages(amm):
    code, output, _ = amm("--help")
    assert code == 0 and amm("-h")[1] == output and amm("merge", "-h")[0] == 0
    assert all(name in output for name in ("merge", "plan", "check", "inspect", "methods"))
    assert amm("--version") == (0, f"amm {__version__}\n", "")


def test_options_replace_keys_of_the_file(amm, config, tmp_path):
    write(tmp_path / "merge.yaml", **config)
    changes = ("--set", "parameters.steps=1", "--set", "output=other", "--set", "method=wudi")
    assert amm("merge", "merge.yaml", *changes, "--device", "cpu")[0] == 0
    content = json.loads((tmp_path / "other" / "provenance.json").read_text())["config"]
    assert (content["method"], content["parameters"]["steps"]) == ("wudi", 1)


def test_an_expert_and_an_override_can_be_changed_by_their_places(amm, config, tmp_path):
    write(tmp_path / "merge.yaml", **config, overrides=[{"names": "*norm*", "method": "mean"}])
    changes = ("experts.1.weight=0.5", "overrides.0.method=base", "output=other")
    arguments = [part for change in changes for part in ("--set", change)]
    assert amm("merge", "merge.yaml", *arguments)[0] == 0
    content = json.loads((tmp_path / "other" / "provenance.json").read_text())["config"]
    assert [isinstance(e, str) for e in content["experts"]] == [True, False]
    assert content["experts"][1]["weight"] == 0.5
    assert content["overrides"][0]["method"] == "base"


def test_long_merges_without_a_terminal_print_lines(amm, config, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.cli.SECONDS_PER_LINE", -1)
    write(tmp_path / "merge.yaml", **config)
    lines = amm("merge", "merge.yaml")[2].splitlines()
    assert len(lines) == len(SHAPES) and lines[-1].startswith("100% ")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--set", "steps"), "write key=value"),
        (("--set", "parameters.steps=[1"), "--set parameters.steps isn't YAML"),
        (("--set", "output=2024-02-30"), "day is out of range"),
        (("--set", "max_memory=" + "9" * 400), "it must be a size"),
        (("--set", "base=~nosuchuser/model"), "home folder"),
        (("--set", "parametrs.steps=1"), "Did you mean 'parameters'?"),
        (("--set", "base.steps=1"), "base has no keys"),
        (("--set", "experts.7.weight=1"), "experts has the entries 0 to 1, not 7"),
        (("--set", "experts.0.wieght=1"), "Did you mean 'weight'?"),
        (("--engine", "rai"), "Did you mean 'ray'?"),
    ],
)
def test_wrong_options_are_one_message(amm, config, tmp_path, option, message):
    write(tmp_path / "merge.yaml", **config)
    code, output, errors = amm("merge", "merge.yaml", *option)
    assert (code, output) == (2, "") and message in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MergeInterrupted("run it again"), (130, "", "run it again\n")),
        (UnfinishedError("the disk is full"), (75, "", "Error: the disk is full\n")),
    ],
)
def test_a_merge_that_can_be_resumed_says_why_it_stopped(
    amm, config, tmp_path, monkeypatch, error, answer
):
    def stopped(*_):
        raise error

    monkeypatch.setattr("amm.run.run", stopped)
    write(tmp_path / "merge.yaml", **config)
    assert amm("merge", "merge.yaml") == answer


def test_merge_prints_json_or_nothing(amm, config, tmp_path):
    config["parameters"] = {"scale": 9.0}
    write(tmp_path / "merge.yaml", **config)
    assert amm("merge", "merge.yaml", "--quiet") == (0, "", "")
    code, output, _ = amm("merge", "merge.yaml", "--set", "output=two", "--json")
    content = json.loads(output)
    assert (code, content["output"], content["tensors"]) == (0, "two", len(SHAPES))
    assert len(content["warnings"]) == 3


def test_names_cannot_write_to_the_terminal(amm, config, tmp_path, pico):
    name = "[/x] :smile: \x1b[2J\nNothing speaks against this merge."
    weights = load_folder(pico[1][0]) | {name: torch.zeros(1)}
    config["experts"][0] = str(save_folder(tmp_path / "[red]\x1b[31m", weights))
    write(tmp_path / "merge.yaml", **config)
    code, output, _ = amm("plan", "merge.yaml")
    assert code == 1 and "\x1b" not in output and "[red]\\x1b[31m" in output
    assert "[/x] :smile:" in output
    assert "Nothing speaks against this merge." not in output.splitlines()


def test_plan_prints_tables_within_80_columns(amm, config, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write(tmp_path / "merge.yaml", **config)
    code, output, errors = amm("plan", "merge.yaml")
    assert (code, errors) == (0, "")
    assert "mlp.down_proj" in output and "0.33" in output
    assert output.splitlines()[-1].strip() == "Nothing speaks against this merge."
    tables = [line for line in output.splitlines() if str(tmp_path) not in line]
    assert max(map(len, tables)) <= 80
    assert not (tmp_path / "out").exists()


def test_plan_of_a_wrong_merge_ends_with_1_and_its_json_says_why(amm, config, tmp_path, pico):
    base, experts = pico
    swapped = {"base": str(experts[0]), "experts": [str(base), str(experts[1])]}
    write(tmp_path / "merge.yaml", **config | swapped)
    code, output, _ = amm("plan", "merge.yaml")
    assert code == 1 and "Problem: " in output
    code, output, _ = amm("plan", "merge.yaml", "--json")
    assert code == 1 and "swapped" in json.loads(output)["problems"][0]


def test_plan_shows_20_differences_and_all_on_request(amm, config, tmp_path, pico):
    base, experts = pico
    weights = load_folder(experts[0]) | {f"extra.{i}": torch.zeros(1) for i in range(30)}
    config["experts"][0] = str(save_folder(tmp_path / "more", weights))
    write(tmp_path / "merge.yaml", **config)
    code, output, _ = amm("plan", "merge.yaml")
    assert code == 1 and output.count("extra.") == 20 and "10 more; --all" in output
    assert amm("plan", "merge.yaml", "--all")[1].count("extra.") == 30


def test_check_ends_with_1_where_something_is_wrong(amm, config, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.checking.try_loading", lambda *_: (None, "left out"))
    write(tmp_path / "merge.yaml", **config)
    amm("merge", "merge.yaml")
    code, output, _ = amm("check", "out")
    assert code == 0 and "FAILED" not in output and "not tried" in output
    (tmp_path / "out" / "tokenizer.json").unlink()
    code, output, _ = amm("check", "out", "--base", config["base"])
    assert code == 1 and "FAILED" in output and "tokenizer.json" in output
    assert json.loads(amm("check", "out", "--json")[1])["ok"] is False


def test_inspect_takes_a_file_or_folders_and_draws(amm, config, tmp_path, pico):
    pytest.importorskip("matplotlib")
    write(tmp_path / "merge.yaml", **config)
    code, output, _ = amm("inspect", "merge.yaml", "--png", "heat.png")
    assert code == 0 and "mlp.down_proj" in output and "layernorm" not in output
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    base, experts = pico
    plain = amm("inspect", *map(str, (base, *experts)))[1]
    assert "merged by" in output and "merged by" not in plain
    assert "layernorm" in amm("inspect", "merge.yaml", "--layers")[1]
    assert json.loads(amm("inspect", "merge.yaml", "--json")[1])["whole"]["count"] == len(SHAPES)


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(amm, tmp_path):
    pytest.importorskip("matplotlib")
    for png in ("nowhere/heat.png", str(tmp_path)):
        code, _, errors = amm("inspect", "no_base", "no_expert", "--png", png)
        assert code == 2 and f"{png} can't be written" in errors
    assert amm("inspect", "no_base", "no_expert", "--png", "heat.png")[0] == 2
    assert not (tmp_path / "heat.png").exists()


def test_inspect_of_a_file_says_what_is_done_with_each_part(amm, config, tmp_path):
    overrides = [{"names": "*q_proj*", "method": "ties"}, {"names": "*embed*", "method": "base"}]
    content = config | {"method": "mean", "parameters": {}, "overrides": overrides}
    write(tmp_path / "merge.yaml", **content)
    rules = {
        row["name"]: row["rules"]
        for row in json.loads(amm("inspect", "merge.yaml", "--json")[1])["layers"]
    }
    for name, found in rules.items():
        assert found == ["ties" if "q_proj" in name else "base" if "embed" in name else "mean"]


def test_inspect_needs_an_expert(amm, pico):
    code, _, errors = amm("inspect", str(pico[0]))
    assert code == 2 and "name experts too" in errors


def test_methods_are_listed_with_their_settings(amm):
    code, output, _ = amm("methods")
    assert code == 0
    assert "task_arithmetic" in output and "steps: 300" in output and "per_task" in output
    assert "coefficients: required" in output and "Undefined" not in output
    schemas = json.loads(amm("methods", "--json")[1])
    assert schemas["amm"]["properties"]["steps"]["default"] == 300


def test_import_costs_no_torch():
    code = "import sys, amm, amm.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_public_names_resolve():
    code = "import amm\nfor name in amm.__all__: getattr(amm, name)\nassert callable(amm.merge)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_functions_are_not_hidden_by_modules_of_their_name():
    code = """
import amm, amm.cli, amm.show
for name in ("merge", "plan", "check", "inspect"):
    assert callable(getattr(amm, name)) and callable(getattr(amm, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
