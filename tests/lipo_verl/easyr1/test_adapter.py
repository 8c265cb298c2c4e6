"""LIPO inside the real EasyR1: its registry, its configuration, its trainer's calls."""

import logging
import math
import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

EASYR1_HOME = os.environ.get("EASYR1_HOME")
if not EASYR1_HOME:
    pytest.skip("EASYR1_HOME names no checkout of EasyR1", allow_module_level=True)

import ray  # noqa: E402
import verl  # noqa: E402
import verl.trainer.main as entry  # noqa: E402
from verl.protocol import DataProto  # noqa: E402
from verl.trainer import config as easyr1_config  # noqa: E402
from verl.trainer import core_algos, metrics, ray_trainer  # noqa: E402

from lipo_verl import contract  # noqa: E402
from lipo_verl.batch import Memory, token_advantages  # noqa: E402
from lipo_verl.config import LipoConfig, LipoConfigError, LipoSetupError  # noqa: E402
from lipo_verl.easyr1 import adapter  # noqa: E402
from lipo_verl.metrics import lipo_metrics  # noqa: E402
from lipo_verl.schemes import schemes  # noqa: E402

LIPO = ("algorithm.adv_estimator=lipo",)


@pytest.fixture(autouse=True)
def nothing_was_warned_of():
    contract.warn_once.cache_clear()


class RayStarted(Exception):
    """The launch got as far as Ray."""


@pytest.fixture
def launch(monkeypatch):
    """Runs EasyR1's own main() on examples/config.yaml and the arguments, up to Ray.

    Returns the configuration that it would hand to Ray.
    """
    monkeypatch.chdir(EASYR1_HOME)

    def launch(*arguments):
        seen = []
        deep_post_init = entry.PPOConfig.deep_post_init

        def record(config):
            seen.append(config)
            deep_post_init(config)

        def stop(*_, **__):
            raise RayStarted

        monkeypatch.setattr(sys, "argv", ["main", "config=examples/config.yaml", *arguments])
        monkeypatch.setattr(entry.PPOConfig, "deep_post_init", record)
        monkeypatch.setattr(ray, "init", stop)
        with pytest.raises(RayStarted):
            entry.main()
        return seen[0]

    return launch


@pytest.fixture
def trainer(launch):
    """Makes EasyR1's trainer, as its Runner does, without data and workers."""

    def make(*arguments, reward_fn=None):
        config = launch(*arguments, "trainer.max_steps=1")
        return ray_trainer.RayPPOTrainer(
            config, None, None, None, None, {}, None, reward_fn=reward_fn
        )

    yield make
    adapter._process.settings, adapter._process.run.groups = None, []


def random_batch(sizes, seed=0, binary=True):
    """A batch as EasyR1's trainer holds it: shuffled groups, the score on the last token."""
    rng = np.random.default_rng(seed)
    uids = np.array([f"uid-{g}" for g, size in enumerate(sizes) for _ in range(size)], object)
    rng.shuffle(uids)
    lengths = torch.from_numpy(rng.integers(1, 33, len(uids)))
    scores = rng.integers(0, 2, len(uids)) if binary else rng.random(len(uids))
    rewards = torch.zeros(len(uids), 32)
    rewards[torch.arange(len(uids)), lengths - 1] = torch.tensor(scores).float()
    mask = (torch.arange(32) < lengths[:, None]).long()
    prompts = torch.ones(len(uids), 4, dtype=torch.int64)
    tensors = {
        "responses": torch.ones_like(mask),
        "response_mask": mask,
        "attention_mask": torch.cat([prompts, mask], 1),
        "token_level_scores": rewards,
        "token_level_rewards": rewards,
    }
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids})


# The estimator


@pytest.mark.parametrize("binary", [True, False], ids=["0/1", "graded"])
@pytest.mark.parametrize("sizes", [[2], [5] * 16, [8] * 64, [2, 3, 7, 5, 2, 4]], ids=str)
def test_without_length_terms_lipo_equals_easyr1s_grpo(trainer, monkeypatch, sizes, binary):
    trainer(*LIPO, "algorithm.lipo.boost=0", "algorithm.lipo.weight_scale=inf")
    for seed in range(5):
        batch = random_batch(sizes, seed, binary)
        grpo = ray_trainer.compute_advantage(batch, "grpo").batch["advantages"].clone()
        with monkeypatch.context() as only_lipo:
            only_lipo.delitem(core_algos.ADV_ESTIMATOR_MAP, "grpo")
            only_lipo.delattr(core_algos, "compute_grpo_outcome_advantage")
            done = ray_trainer.compute_advantage(batch, "lipo").batch
        torch.testing.assert_close(done["advantages"], grpo, atol=1e-6, rtol=0)
        torch.testing.assert_close(done["returns"], grpo, atol=1e-6, rtol=0)


def test_the_settings_of_the_launch_reach_the_estimator(trainer):
    settings = {"boost": 0.7, "length_threshold": 40.0, "std_floor": 0.2, "decay": "cosine"}
    trainer(*LIPO, *(f"algorithm.lipo.{key}={value}" for key, value in settings.items()))
    batch = random_batch([6], seed=3)
    advantages = ray_trainer.compute_advantage(batch, "lipo").batch["advantages"]
    mask = batch.batch["response_mask"]
    config = LipoConfig(**settings, response_budget=2048)
    expected, _ = token_advantages(
        batch.batch["token_level_rewards"], mask, batch.non_tensor_batch["uid"], config
    )
    defaults, _ = token_advantages(
        batch.batch["token_level_rewards"], mask, batch.non_tensor_batch["uid"], LipoConfig()
    )
    assert advantages.equal(expected)
    assert not advantages.allclose(defaults)


@pytest.mark.parametrize("scheme", [scheme.name for scheme in schemes()])
def test_every_scheme_runs_through_easyr1s_call_and_is_logged(trainer, scheme):
    section = {"scheme": scheme} | ({"target_length": 16} if scheme == "laser" else {})
    trainer(*LIPO, *(f"algorithm.lipo.{key}={value}" for key, value in section.items()))
    batch = random_batch([4, 6, 2], seed=1)
    advantages = ray_trainer.compute_advantage(batch, "lipo").batch["advantages"]
    expected, groups = token_advantages(
        batch.batch["token_level_rewards"],
        batch.batch["response_mask"],
        batch.non_tensor_batch["uid"],
        LipoConfig.parse(section | {"response_budget": 2048}),
        memory=Memory(),
    )
    assert advantages.equal(expected)
    assert adapter._process.run.metrics().items() >= lipo_metrics(groups).items()


def test_a_response_as_long_as_the_budget_of_the_data_counts_as_truncated(trainer):
    trainer(*LIPO, "data.max_response_length=32")
    batch = random_batch([64])
    ray_trainer.compute_advantage(batch, "lipo")
    (group,) = adapter._process.run.groups
    cut = (batch.batch["response_mask"].sum(1) == 32).numpy()
    assert cut.any() and not cut.all()
    assert np.array_equal(group.truncated, cut[group.rows])


@pytest.mark.parametrize("filtering", [False, True])
def test_the_accuracy_that_a_reward_names_says_what_is_correct(trainer, monkeypatch, filtering):
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    batch = random_batch([4, 4, 4])
    right = batch.batch["token_level_rewards"].sum(1).tolist()
    batch.batch["token_level_rewards"] = 0.5 + 0 * batch.batch["response_mask"]
    said = batch.batch["token_level_rewards"], {"overall": [0.5] * 12, "accuracy": right}
    handle = types.SimpleNamespace(remote=lambda _: said)
    made = trainer(
        *LIPO,
        f"algorithm.online_filtering={filtering}",
        reward_fn=types.SimpleNamespace(compute_reward=handle),
    )
    assert made.reward_fn.compute_reward.remote(batch) is said
    rows = range(12)
    if filtering:  # as EasyR1 does then: a group is dropped, the others are reordered
        rows = [row for row in reversed(rows) if batch.non_tensor_batch["uid"][row] != "uid-1"]
        batch = batch[rows]
    ray_trainer.compute_advantage(batch, "lipo")
    (group,) = adapter._process.run.groups
    assert np.array_equal(group.correct, np.array(right)[[*rows]][group.rows] == 1)
    assert group.correct.any() and not group.correct.all()
    ray_trainer.compute_advantage(batch, "lipo")  # a batch of which nothing more was said
    assert adapter._process.run.groups[0].correct.all()


def test_a_budget_of_the_users_stays(trainer):
    trainer(*LIPO, "data.max_response_length=32", "algorithm.lipo.response_budget=16")
    assert adapter._process.settings.response_budget == 16


def test_without_a_trainer_the_estimator_says_what_is_missing():
    with pytest.raises(LipoSetupError, match="no settings in process .* Make the trainer first"):
        ray_trainer.compute_advantage(random_batch([2]), "lipo")


def test_lipo_is_an_estimator_of_easyr1_and_the_others_are_what_they_were(trainer):
    names = [*ray_trainer.AdvantageEstimator]
    assert ray_trainer.AdvantageEstimator is core_algos.AdvantageEstimator
    assert names[-1] == "lipo" == names[-1].value
    assert {name.value for name in names} == set(core_algos.ADV_ESTIMATOR_MAP)
    assert trainer("algorithm.adv_estimator=gae").use_critic
    assert not trainer(*LIPO).use_critic


def test_registering_again_changes_nothing_and_another_estimator_is_an_error(monkeypatch):
    before = dict(core_algos.ADV_ESTIMATOR_MAP), [*core_algos.AdvantageEstimator]
    monkeypatch.setattr(core_algos, "AdvantageEstimator", core_algos.AdvantageEstimator)
    monkeypatch.setattr(core_algos, "ADV_ESTIMATOR_MAP", dict(core_algos.ADV_ESTIMATOR_MAP))
    adapter.patch_core_algos(core_algos)
    assert [*core_algos.AdvantageEstimator] == before[1]
    assert set(core_algos.ADV_ESTIMATOR_MAP) == set(before[0])
    core_algos.register_adv_estimator("lipo")(core_algos.compute_kl)
    with pytest.raises(LipoSetupError, match="another estimator named lipo.*compute_kl"):
        adapter.patch_core_algos(core_algos)


# Metrics and the announcement


def test_the_metrics_of_a_batch_are_logged_once_and_only_with_lipo(trainer):
    trainer(*LIPO)
    batch = ray_trainer.compute_advantage(random_batch([4] * 8), "lipo")
    theirs = metrics.compute_data_metrics(batch)
    with_lipo = ray_trainer.compute_data_metrics(batch=batch, use_critic=False)
    assert {key: with_lipo[key] for key in theirs} == theirs
    ours = set(with_lipo) - set(theirs)
    assert "lipo/groups_active" in ours
    assert all(key.startswith("lipo/") for key in ours)
    assert ray_trainer.compute_data_metrics(batch=batch) == theirs


def test_the_trainers_process_says_that_lipo_is_live(trainer, capsys):
    trainer(*LIPO, "algorithm.lipo.boost=0.25")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "LIPO" in line]
    assert line.startswith(
        f"LIPO is live in process {os.getpid()} (EasyR1 {verl.__version__}): scheme=lipo "
    )
    assert {"boost=0.25", "response_budget=2048"} <= {*line.split()}


def test_a_run_with_another_estimator_hears_nothing_of_lipo(trainer, capsys, caplog):
    trainer("algorithm.adv_estimator=grpo")
    assert adapter._process.settings is None
    assert "LIPO" not in capsys.readouterr().out
    assert caplog.text == ""


# EasyR1's own rewards, as docs/easyr1.md has them

THINK = "<think>why</think>"
DAPO = {"max_response_length": 2048, "overlong_buffer_length": 410, "overlong_penalty_factor": 1.0}


@pytest.mark.parametrize(
    "file, correct_score, rights, wrongs, settings",
    [
        (
            *("math", 0.5, {THINK + r"\boxed{1}": 1, r"\boxed{1}": 0.9}),
            *({THINK + r"\boxed{2}": 0.1, "2": 0}, {}),
        ),
        (
            *("r1v", 0.75, {THINK + "<answer>1</answer>": 1}),
            *({THINK + "<answer>2</answer>": 0.5, "2": 0}, {}),
        ),
        ("dapo", -0.5, {"Answer: 1": 0}, {"Answer: 2": -2}, DAPO),
        ("android_gui", 0.5, {"1": 1}, {"2": 0}, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scores_and_accuracy_of_easyr1s_rewards_lie_on_their_side_of_correct_score(
    file, correct_score, rights, wrongs, settings
):
    if file in ("math", "r1v"):
        pytest.importorskip("mathruler")
    path = Path(EASYR1_HOME, "examples", "reward_function", f"{file}.py")
    if not path.exists():
        pytest.skip(f"this EasyR1 has no {path.name}")
    compute_score = runpy.run_path(str(path))["compute_score"]
    for response, overall in (rights | wrongs).items():
        row = {"response": response, "response_length": 2048, "ground_truth": "1"}
        score = compute_score(row) if file == "r1v" else compute_score([row], **settings)[0]
        assert score["overall"] == pytest.approx(overall)
        for part in "overall", "accuracy":
            assert (score[part] >= correct_score) == (response in rights)


# The configuration


def test_easyr1s_example_reads_as_before(launch):
    """But for the new section, the patched classes parse it as EasyR1's own do."""
    ours = launch()
    assert type(ours) is easyr1_config.PPOConfig is entry.PPOConfig
    easyr1s_own = OmegaConf.structured(type(ours).__base__())
    theirs = OmegaConf.merge(easyr1s_own, OmegaConf.load("examples/config.yaml"))
    theirs = OmegaConf.to_object(theirs)
    theirs.deep_post_init()
    assert not hasattr(theirs.algorithm, "lipo")
    ours = ours.to_dict()
    assert ours["algorithm"].pop("lipo") is None
    assert ours == theirs.to_dict()


def test_settings_come_from_the_command_line_and_from_yaml(launch, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "algorithm:\n  lipo:\n    boost: 0.3\n    length_threshold: ${data.max_response_length}\n"
    )
    config = launch(
        f"config={tmp_path}/config.yaml",
        *LIPO,
        "algorithm.use_kl_loss=true",
        "algorithm.lipo.pairing=adjacent",
        "algorithm.lipo.weight_scale=inf",
        "worker.rollout.n=4",
    )
    settings = adapter.check_launch(config)
    assert settings == LipoConfig(
        boost=0.3,
        length_threshold=512,
        pairing="adjacent",
        weight_scale=math.inf,
        response_budget=512,
    )
    assert config.to_dict()["algorithm"]["lipo"]["boost"] == 0.3


@pytest.mark.parametrize("given", [{"lipo": None}, {}, {"lipo.boost": 0.3}], ids=str)
def test_the_logged_configuration_has_every_setting_defaults_as_well(launch, given):
    arguments = [f"algorithm.{k}={'null' if v is None else v}" for k, v in given.items()]
    config = launch(*LIPO, *arguments)
    effective = LipoConfig(response_budget=2048, boost=given.get("lipo.boost", 0.1))
    assert config.to_dict()["algorithm"]["lipo"] == effective.model_dump()
    assert adapter.check_launch(config) == effective


@pytest.mark.parametrize("dumps", ["ray.cloudpickle", "pickle"])
def test_the_configuration_arrives_whole_in_another_process(launch, tmp_path, dumps):
    config = launch(*LIPO, "algorithm.lipo.boost=0.3")
    module = ray.cloudpickle if dumps == "ray.cloudpickle" else __import__("pickle")
    (tmp_path / "config.pkl").write_bytes(module.dumps(config))
    code = (
        "import pickle, sys; from lipo_verl.easyr1.hook import install; install(); "
        "config = pickle.load(open(sys.argv[1], 'rb')); from verl.trainer.config import PPOConfig; "
        "print(type(config) is PPOConfig, type(config.algorithm), config.algorithm.lipo['boost'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "config.pkl"], text=True, capture_output=True
    )
    assert done.stdout == "True <class 'verl.trainer.config.AlgorithmConfig'> 0.3\n", done.stderr


# Refusals, each before Ray starts


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            ["algorithm.lipo.bost=0.1"],
            LipoConfigError,
            r"algorithm\.lipo\.bost: no such setting\. Did you mean algorithm\.lipo\.boost\?",
        ),
        (["algorithm.lipo.boost=much"], LipoConfigError, r"algorithm\.lipo\.boost='much'"),
        (["algorithm.lipo=on"], LipoConfigError, r"algorithm\.lipo=.* is no group of settings"),
        (
            ["worker.rollout.n=1"],
            LipoSetupError,
            r"worker\.rollout\.n=1\. Set it to 2 or more",
        ),
        (
            ["algorithm.use_kl_loss=false"],
            LipoSetupError,
            r"Set algorithm\.use_kl_loss=true .* or algorithm\.disable_kl=true",
        ),
        (
            ["algorithm.adv_estimator=lippo"],
            LipoSetupError,
            r"algorithm\.adv_estimator=lippo: no such estimator\. Did you mean lipo\?",
        ),
        (
            ["algorithm.adv_estimator=LIPO"],
            LipoSetupError,
            r"algorithm\.adv_estimator=LIPO: no such estimator\. Did you mean lipo\?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_launch_that_cannot_work_is_refused(launch, arguments, error, message):
    with pytest.raises(error, match=message):
        launch(*LIPO, *arguments)


def test_without_kl_there_is_nothing_to_refuse(launch):
    assert launch(*LIPO, "algorithm.disable_kl=true", "algorithm.use_kl_loss=false")


def test_what_easyr1_lacks_is_named_and_other_runs_go_on(launch, monkeypatch):
    monkeypatch.setattr(adapter, "_lacking", [])
    theirs = types.ModuleType("verl.trainer.ray_trainer")
    theirs.RayPPOTrainer = type("RayPPOTrainer", (), {})
    adapter.patch_ray_trainer(theirs)
    assert "__init__" not in vars(theirs.RayPPOTrainer)
    with pytest.raises(LipoSetupError, match=r"has no verl\.trainer\.ray_trainer\.compute_data_m"):
        launch(*LIPO)
    assert launch("algorithm.adv_estimator=grpo")


def test_a_trainer_made_without_the_entry_module_is_checked_as_well(launch):
    config = launch()
    config.algorithm.adv_estimator, config.worker.rollout.n = "lipo", 1
    with pytest.raises(LipoSetupError, match="rollout.n=1"):
        ray_trainer.RayPPOTrainer(config, None, None, None, None, {}, None)


@pytest.mark.parametrize(("filter_high", "drops"), [("0.99", True), ("1.0", True), ("1.01", False)])
def test_a_filter_that_drops_what_lipo_shortens_is_warned_of(launch, caplog, filter_high, drops):
    launch(*LIPO, "algorithm.online_filtering=true", f"algorithm.filter_high={filter_high}")
    assert ("drops the groups that are all right" in caplog.text) == drops


def test_settings_that_the_estimator_does_not_read_are_warned_of(launch, caplog):
    with caplog.at_level(logging.WARNING):
        launch("algorithm.lipo.boost=0.1", "algorithm.adv_estimator=grpo")
    assert "algorithm.lipo is set, but algorithm.adv_estimator=grpo does not read it" in caplog.text


def test_a_misspelt_estimator_of_easyr1s_own_is_left_to_easyr1(launch):
    assert launch("algorithm.adv_estimator=gpro").algorithm.adv_estimator == "gpro"
