"""Both ways in, in EasyR1's whole training loop: its entry module, Ray, Runner, rewards, loggers.

Only the GPU workers are doubles (``doubles/``). About half a minute each.
"""

import ast
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

from lipo_verl.batch import token_advantages
from lipo_verl.config import LipoConfig
from lipo_verl.metrics import lipo_metrics

SETTINGS = {"boost": 0.4, "length_threshold": 12.0, "std_floor": 0.1}
BUDGET = 8

REWARD = """
def compute_score(answers):
    right = [float(answer["response"].startswith("right")) for answer in answers]
    return [{"overall": 0.5 + 0.5 * accuracy, "accuracy": accuracy} for accuracy in right]
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tokenizer, eight questions and a reward function."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    folder = tmp_path_factory.mktemp("inputs")
    words = ["<pad>", "<eos>", "<unk>", "is", "it", "right", "wrong"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    ).save_pretrained(folder / "model")
    Qwen2Config().save_pretrained(folder / "model")
    questions = [json.dumps({"problem": f"is it {i}", "answer": "right"}) for i in range(8)]
    (folder / "data.jsonl").write_text("\n".join(questions))
    (folder / "reward.py").write_text(REWARD)
    return folder


@pytest.fixture
def train(easyr1_home, inputs, tmp_path):
    """Two steps of EasyR1 in a new process; returns its output and the folder of its results."""

    def train(python, module, *arguments):
        results = tmp_path / "results"
        command = [python, "-m", module, "config=examples/config.yaml"]
        settings = {
            "data.train_files": inputs / "data.jsonl",
            "data.val_files": inputs / "data.jsonl",
            "data.format_prompt": "null",
            "data.filter_overlong_prompts": "false",
            "data.max_prompt_length": 16,
            "data.max_response_length": BUDGET,
            "data.rollout_batch_size": 4,
            "worker.actor.global_batch_size": 4,
            "worker.actor.model.model_path": inputs / "model",
            "worker.reward.reward_function": f"{inputs / 'reward.py'}:compute_score",
            "worker.reward.num_cpus": 0,  # with Runner's, two would want more than two cores
            "worker.rollout.n": 6,
            "algorithm.adv_estimator": "lipo",
            "trainer.logger": "[console,file]",
            "trainer.max_steps": 2,
            "trainer.val_before_train": "false",
            "trainer.val_freq": -1,
            "trainer.save_freq": -1,
            "trainer.save_checkpoint_path": results,
        } | {f"algorithm.lipo.{key}": value for key, value in SETTINGS.items()}
        command += [f"{key}={value}" for key, value in settings.items()] + list(arguments)
        done = subprocess.run(command, cwd=easyr1_home, text=True, capture_output=True, timeout=300)
        return done, results

    return train


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that has the packages of this one, and what pip installs of
    lipo_verl beside its packages."""
    setup = ast.parse((Path(__file__).parents[3] / "setup.py").read_text())
    (line,) = (ast.literal_eval(node.value) for node in setup.body if isinstance(node, ast.Assign))
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site_packages = folder / "lib" / version / "site-packages"
    (site_packages / "this_one.pth").write_text(sysconfig.get_path("purelib"))
    (site_packages / "lipo_verl.pth").write_text(line)
    return folder / "bin" / "python"


def check(done, results):
    """LIPO computed the advantages of both steps, with the launch's settings, and was logged."""
    assert done.returncode == 0, done.stdout + done.stderr
    live = [line for line in done.stdout.splitlines() if "LIPO is live" in line]
    assert len(live) == 1, done.stdout + done.stderr
    assert "(Runner pid=" in live[0]  # Ray's mark on a line from that actor
    assert f"boost={SETTINGS['boost']}" in live[0].split()
    log = [json.loads(line) for line in (results / "experiment_log.jsonl").open()]
    config = LipoConfig(**SETTINGS, response_budget=BUDGET)
    for step in 1, 2:
        record = torch.load(results / f"update_{step}.pt")
        assert f"process {record['process']} " in live[0]
        advantages, groups = token_advantages(
            record["token_level_rewards"],
            record["response_mask"],
            record["uid"],
            config,
            accuracy=2 * record["token_level_rewards"].sum(1).numpy() - 1,
        )
        assert [tuple(group.rows.shape) for group in groups] == [(4, 6)]
        assert record["advantages"].abs().sum() > 0
        torch.testing.assert_close(record["advantages"], advantages)
        torch.testing.assert_close(record["returns"], advantages)
        line = next(line for line in log if line["step"] == step and "lipo" in line)
        logged = line["lipo"]
        assert 0 < logged["accuracy"] < 1
        assert logged["accuracy"] == pytest.approx(line["reward"]["accuracy"])
        assert {f"lipo/{key}": value for key, value in logged.items()} == pytest.approx(
            lipo_metrics(groups) | {"lipo/collapse_alarm": 0}
        )
    assert "groups_active" in done.stdout  # the console logger


def test_the_unmodified_command_trains_with_lipo_where_it_is_installed(train, installed):
    check(*train(installed, "verl.trainer.main"))


def test_the_drop_in_module_trains_with_lipo(train):
    check(*train(sys.executable, "lipo_verl.easyr1"))


def test_a_misspelt_setting_stops_the_drop_in_module_before_ray_starts(train):
    done, results = train(sys.executable, "lipo_verl.easyr1", "algorithm.lipo.bost=1")
    assert "Did you mean algorithm.lipo.boost?" in done.stderr.splitlines()[-1]
    assert "Ray" not in done.stdout + done.stderr
    assert not results.exists()


def test_the_tests_use_the_checkout(easyr1_home):
    import verl

    assert os.path.samefile(os.path.dirname(verl.__path__[0]), easyr1_home)
