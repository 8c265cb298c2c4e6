"""The command line: what it prints, and with which exit code."""

import subprocess
import sys

import pytest
import yaml
from pico_models import SHAPES, load_folder

from amm.cli import main


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


def test_warnings_are_counted_and_listed_in_the_report(amm, config, tmp_path):
    write(tmp_path / "merge.yaml", **config | {"parameters": {"scale": 9.0}})
    code, output, errors = amm("merge", "merge.yaml")
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1].split(maxsplit=1)[1] == "3, listed in merge_report.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "amn"}, "Error: unknown merge method 'amn'. Did you mean 'amm'?"),
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
    assert amm("mrge")[0] == 2


def test_help_lists_the_command(amm):
    code, output, _ = amm("--help")
    assert code == 0 and "merge" in output


def test_import_costs_no_torch():
    code = "import sys, amm, amm.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve():
    code = "import amm\nfor name in amm.__all__: getattr(amm, name)\nassert callable(amm.merge)"
    subprocess.run([sys.executable, "-c", code], check=True)
