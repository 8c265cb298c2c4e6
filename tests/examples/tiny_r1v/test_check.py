"""The machine check: what it finds missing, and what it says to do."""

import dataclasses
import os
import subprocess
import sys
import types
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("hydra")  # comes with verl

from examples.tiny_r1v.config.easyr1.compose import compose
from examples.tiny_r1v.launch import check
from examples.tiny_r1v.launch.check import GB, Gpu, Machine, judge, machines, needs
from examples.tiny_r1v.launch.settings import composed
from examples.tiny_r1v.size import choice, estimate

REPOSITORY = Path(__file__).parents[3]

GOOD = Machine(
    name="node",
    gpus=(Gpu("H100", 81559e6, "580.10"),) * 8,
    memory=1000 * GB,
    shared_memory=100 * GB,
    disk_free=3000 * GB,
    disk_used=0,
    python="3.11.7",
    interpreter="/venv/bin/python",
    packages={
        "verl": "0.9.1",
        "TransferQueue": "0.1.10",
        "transformers": "5.10.4",
        "torch": "2.11.0+cu130",
        "ray": "2.60.0",
        "lipo-verl": "0.1.dev3",
        "rapidfuzz": "3.14",
        "math-verify": "0.9.0",
        "vllm": "0.24.0",
    },
    framework="verl",
    cuda="",
    flash_attn="",
    missing_files=(),
)


def command(*overrides, gpus=8, expert="ocr"):
    """verl's, as train.sh starts it."""
    machine = max(number for number in (1, 2, 4, 8) if number <= gpus)
    return "verl.trainer.main_ppo", (
        f"--config-dir={REPOSITORY}/examples/tiny_r1v/config/verl",
        *("+tiny_r1v=common", "+tiny_r1v/size=3b", f"+tiny_r1v/machine=gpus_{machine}"),
        f"trainer.n_gpus_per_node={gpus}",
        *(f"+tiny_r1v/expert={expert}", "+tiny_r1v/algorithm=lipo"),
        *("recipe.data=/d", "recipe.output=/o", *overrides),
    )


@cache
def of_verl(*overrides, gpus=8, expert="ocr"):
    module, arguments = command(*overrides, gpus=gpus, expert=expert)
    return needs(module, composed(module, arguments))


@cache
def of_easyr1(gpus=8):
    paths = {"data": Path("/d"), "output": Path("/o")}
    config = compose(algorithm="lipo", expert="ocr", gpus=gpus, **paths)
    config.trainer.nnodes = 1
    return needs("lipo_verl.easyr1", config)


def missing(machine, needed=None):
    findings = judge(machine, of_verl() if needed is None else needed)
    return {finding.what: finding for finding in findings if finding.remedy}


def without(package, **others):
    packages = {k: v for k, v in GOOD.packages.items() if k != package} | others
    return dataclasses.replace(GOOD, packages=packages)


def cards(mebibytes, number=8):
    return dataclasses.replace(GOOD, gpus=(Gpu("X", mebibytes * 1e6, "580"),) * number)


@pytest.mark.parametrize("gpus", [1, 2, 4, 6, 8])
def test_a_machine_that_has_everything_passes(gpus):
    assert missing(GOOD, of_verl(gpus=gpus)) == {}


@pytest.mark.parametrize(
    "change, what, remedy",
    [
        ({"gpus": ()}, "GPUs", "GPUs: nvidia-smi finds none"),
        ({"gpus": GOOD.gpus[:7]}, "GPUs", "--gpus 6"),
        ({"memory": 64 * GB}, "memory", "larger machine"),
        ({"shared_memory": 64 * 2**20}, "shared memory", "--shm-size"),
        ({"disk_free": 100 * GB}, "disk", "--output"),
        ({"python": "3.13.1"}, "python", "3.10, 3.11 or 3.12"),
        ({"framework": "easyr1"}, "framework", "docs/recipe.md"),
        ({"cuda": "RuntimeError: no CUDA"}, "CUDA", "not the one for CPUs"),
        ({"flash_attn": "ImportError: undefined symbol"}, "flash-attn", "a wheel for this torch"),
        ({"missing_files": (Path("/d/math/train.parquet"),)}, "data", "data math --output /d"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(change, what, remedy):
    found = missing(dataclasses.replace(GOOD, **change))
    assert what in found
    assert remedy in found[what].remedy


def test_a_driver_that_is_too_old_has_ways_out():
    old = dataclasses.replace(
        GOOD, gpus=(Gpu("A100", 81920e6, "550.90.07"),) * 8, cuda="RuntimeError: driver too old"
    )
    (finding,) = missing(old).values()
    assert "driver 550.90.07" in finding.found
    for way in ("580 or newer", "compatibility libraries", "EasyR1's image"):
        assert way in finding.remedy


@pytest.mark.parametrize(
    "machine", [without("rapidfuzz"), without("", verl="0.8.0"), without("", transformers="5.11.0")]
)
def test_missing_and_wrong_packages_are_found(machine):
    (finding,) = missing(machine).values()
    assert "docs/recipe.md" in finding.remedy


def test_rollouts_by_sglang_need_no_vllm():
    sglang = of_verl("actor_rollout_ref.rollout.name=sglang")
    assert {"sglang"} == set(missing(GOOD, sglang))
    assert missing(without("vllm", sglang="0.5.9"), sglang) == {}


def test_flash_attention_is_asked_for_where_it_is_used():
    attention = "+actor_rollout_ref.model.override_config.attn_implementation="
    assert of_verl().flash_attn
    assert of_verl(attention + "flash_attention_2").flash_attn
    assert not of_verl(attention + "sdpa").flash_attn


def test_everything_missing_is_said_at_once():
    nothing = Machine(
        *("node", (), 0, 0, 0, 0, "3.9.1", "python", {}, "", "", "no module", (Path("/d/m/v"),))
    )
    needed = of_verl()
    everything = {finding.what for finding in judge(nothing, needed)}
    assert set(missing(nothing, needed)) == everything


def test_what_a_run_has_saved_already_counts_as_room_for_it():
    half = dataclasses.replace(GOOD, disk_free=150 * GB)
    assert "disk" in missing(half)
    assert "disk" not in missing(dataclasses.replace(half, disk_used=150 * GB))


def test_disk_is_that_of_all_checkpoints():
    one = estimate.checkpoint_bytes(of_verl().shape)
    for expert, overrides, number in [
        ("ocr", (), 6),
        ("mixture", (), 6),
        ("ocr", ("trainer.save_freq=50",), 3),
        ("ocr", ("trainer.save_freq=-1",), 0),
        ("mixture", ("+recipe.save_from=1800000000",), 7),
    ]:
        assert of_verl(*overrides, expert=expert).disk == number * one


def test_adapters_need_less_memory_and_disk():
    full, adapters = of_verl(gpus=1), of_verl("+tiny_r1v/adapter=lora", gpus=1)
    assert "GPU memory" in missing(cards(46068, 1), full)
    assert missing(cards(46068, 1), adapters) == {}
    # The moments were two thirds; adapters of rank 32 are 2 % of the model.
    assert full.disk / 3 < adapters.disk < 1.1 * full.disk / 3


@pytest.mark.parametrize("gpus", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("mebibytes", [23034, 40960, 46068, 81079, 81559])
@pytest.mark.parametrize("needed", [of_verl, of_easyr1])
def test_what_fits_is_what_size_says(gpus, mebibytes, needed):
    run = needed(gpus=gpus)
    machine = cards(mebibytes, gpus)
    gpu = dataclasses.replace(estimate.GPUS["h100"], memory=machine.gpus[0].memory)
    fits = choice.fit(run.shape, run.run, run.setting, gpu).fits
    assert fits == ("GPU memory" not in missing(machine, run))


def test_memory_that_does_not_suffice_gets_the_settings_that_fit():
    needed = of_verl(gpus=4)
    finding = missing(cards(40960, 4), needed)["GPU memory"]
    words = finding.remedy.removeprefix("-- ").split()
    assert "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=6144" in words
    assert missing(cards(40960, 4), of_verl(*words, gpus=4)) == {}
    too_small = missing(cards(16000, 1), of_verl(gpus=1))["GPU memory"]
    assert "--gpu-memory 40GB fits" in too_small.remedy


def test_eighty_gigabyte_cards_are_enough_for_one_gpu():
    for name, mebibytes in {"A100": 81920, "H100": 81559, "H100 PCIe": 81079}.items():
        assert missing(cards(mebibytes, 1), of_verl(gpus=1)) == {}, name


def test_larger_micro_batches_are_named_where_they_fit():
    (finding,) = [each for each in judge(GOOD, of_verl()) if each.what == "GPU memory"]
    assert finding.found.endswith("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384")
    assert not finding.remedy


def test_a_model_of_unknown_size_is_not_judged():
    unknown = of_verl("actor_rollout_ref.model.path=some/model")
    (finding,) = [each for each in judge(GOOD, unknown) if each.what == "GPU memory"]
    assert "not judged. There is no some/model/config.json" in finding.found


@pytest.mark.parametrize(
    "needed, gpus, remedy", [(of_verl, 7, 6), (of_verl, 5, 4), (of_easyr1, 6, 4)]
)
def test_gpus_among_which_the_batch_does_not_divide_are_refused(needed, gpus, remedy):
    machine = dataclasses.replace(GOOD, gpus=GOOD.gpus[:gpus])
    finding = missing(machine, needed(gpus=gpus))["GPUs"]
    assert "do not divide" in finding.found
    assert finding.remedy == f"--gpus {remedy}"


def test_easyr1_wants_other_versions():
    packages = GOOD.packages | {"transformers": "4.57.6", "omegaconf": "2.3.0"}
    machine = dataclasses.replace(GOOD, packages=packages, framework="easyr1")
    assert missing(machine, of_easyr1()) == {}
    assert {"framework", "transformers", "omegaconf"} == set(missing(GOOD, of_easyr1()))


class Ray(types.ModuleType):
    """A cluster whose nodes answer a task by running it here."""

    class exceptions:
        GetTimeoutError = type("GetTimeoutError", (Exception,), {})

    def __init__(self, nodes, gpus):
        super().__init__("ray")
        self.nodes, self.gpus, self.asked, self.running = nodes, gpus, [], False

    def init(self, **_):
        self.running = True

    def shutdown(self):
        self.running = False

    def placement_group(self, bundles, strategy):
        fits = len(bundles) <= self.nodes and all(each["GPU"] <= self.gpus for each in bundles)
        return types.SimpleNamespace(ready=lambda: fits, strategy=strategy)

    def get(self, what, timeout=None):
        if what is False:
            raise self.exceptions.GetTimeoutError
        return what

    def remote(self, **resources):
        def of(function):
            def options(scheduling_strategy):
                self.asked.append((resources["num_gpus"], scheduling_strategy))
                return types.SimpleNamespace(remote=function)

            return types.SimpleNamespace(options=options)

        return of


@pytest.fixture
def cluster(monkeypatch):
    def make(nodes, gpus):
        ray = Ray(nodes, gpus)
        groups = types.SimpleNamespace(placement_group=ray.placement_group)
        places = types.SimpleNamespace(PlacementGroupSchedulingStrategy=lambda group, i: i)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.util.placement_group", groups)
        monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", places)
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        return ray

    return make


def test_on_a_ray_cluster_the_nodes_with_the_gpus_are_looked_at(cluster, monkeypatch, tmp_path):
    ray = cluster(nodes=2, gpus=8)
    monkeypatch.setattr(check, "look_around", lambda needs, output: GOOD)
    needed = dataclasses.replace(of_verl(), nodes=2)
    assert machines(needed, tmp_path) == [GOOD, GOOD]
    assert ray.asked == [(8, 0), (8, 1)]
    assert not ray.running


def test_a_ray_cluster_without_so_many_gpus_is_said(cluster, tmp_path):
    ray = cluster(nodes=2, gpus=4)
    with pytest.raises(TimeoutError, match="no 2 nodes with 8 free GPUs"):
        machines(dataclasses.replace(of_verl(), nodes=2), tmp_path)
    assert not ray.running


def run(output, module, arguments, path=()):
    env = os.environ | {"PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}
    env.pop("RAY_ADDRESS", None)
    words = [sys.executable, "-m", check.__name__, str(output), module, *map(str, arguments)]
    return subprocess.run(words, cwd=REPOSITORY, env=env, capture_output=True, text=True)


def test_nvidia_smi_is_read_and_a_machine_without_enough_fails(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 550.90'\necho 'GH200, [N/A], 550.90'\n")
    smi.chmod(0o755)
    done = run(tmp_path / "new", *command(gpus=4), path=[tmp_path])
    assert done.returncode == 1
    assert "2 × NVIDIA L4, 4 are asked for" in " ".join(done.stdout.split())
    assert "--gpus 2" in done.stdout
    assert "no /d/ocr/train.parquet" in done.stdout
    assert "--no-check" in done.stderr


def test_this_machine_can_run_the_quickstart(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "math").mkdir(exist_ok=True)
        (tmp_path / "math" / f"{split}.parquet").touch()
    arguments = (
        f"--config-dir={REPOSITORY}/examples/tiny_r1v/config/verl",
        *("+tiny_r1v=common", "+tiny_r1v/size=quickstart", "trainer.n_gpus_per_node=2"),
        *("+tiny_r1v/expert=math", "+tiny_r1v/algorithm=lipo", f"recipe.data={tmp_path}"),
        *(f"recipe.output={tmp_path}", "actor_rollout_ref.model.path=base"),
    )
    done = run(tmp_path, "lipo_verl.cpu", arguments)
    assert done.returncode == 0, done.stdout + done.stderr
