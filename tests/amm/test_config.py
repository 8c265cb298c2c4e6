"""merge.yaml."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amm.config import MergeConfig, load_config, parse_size
from amm.errors import InputError
from amm.text import size_text

GOOD = "base: b\nexperts: [e, ~/f]\noutput: o\n"


def load(tmp_path, text):
    (tmp_path / "merge.yaml").write_text(text)
    return load_config(tmp_path / "merge.yaml")


def test_defaults(tmp_path):
    config = load(tmp_path, GOOD)
    assert (config.method, config.save_dtype, config.compute_dtype) == ("amm", None, "float32")
    assert config.max_shard_size == 10**9
    assert str(config.base) == "b", "relative to the current folder"
    assert config.experts[1].path.is_absolute(), "~ is the home folder"
    assert isinstance(config, MergeConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "metod: amm", r"unknown key 'metod'. Did you mean 'method'\? Allowed: base"),
        (GOOD + "save_dtype: bf16", r"save_dtype can't be 'bf16'. Did you mean 'bfloat16'\?"),
        (GOOD + "compute_dtype: float16", "Allowed: float32, float64"),
        (GOOD + "max_shard_size: huge", "must be a size such as 500MB"),
        (GOOD + "device: gpu", "must be cpu, cuda or cuda:N"),
        (GOOD + "engine: rey", r"engine can't be 'rey'. Did you mean 'ray'\?"),
        (GOOD + "max_memory: lots", "max_memory can't be 'lots': it must be a size such as"),
        ("base: b\noutput: o", "key 'experts' is missing"),
        ("base: b\nexperts: []\noutput: o", "experts is empty; name at least 1"),
        (
            "base: b\nexperts: [e, 120]\noutput: o",
            "experts.1.path can't be 120: it must be a path",
        ),
        (
            "base: b\nexperts: [{path: e, wieght: 2}]\noutput: o",
            "unknown key 'experts.0.wieght'. Did you mean 'weight'.*Allowed: base, partial, path",
        ),
        ("base: b\nexperts: [e, ]\noutput: on", "output can't be True: it must be a path"),
        ("base: b\nexperts:\n- \noutput: o", "experts.0.path can't be None: it must be a path"),
        ("base: b\nexperts: e\noutput: o", "experts can't be 'e': it must be a list, such as"),
        (GOOD + "parameters: [1]", "parameters can't be .1.: it must be keys and values"),
        (GOOD + "method: 3", "method can't be 3: it must be text"),
        (GOOD + "experts: [g]", "the key 'experts' is in line 2 and in line 4; the last would"),
        (GOOD + "parameters: {x: 1, y: [{z: 1, z: 2}]}", "the key 'z' is in line 4 and in line 4"),
        ("- a", "must have keys and values"),
        ("", "must have keys and values"),
        ("a: [", "isn't YAML"),
        ("a: " + "[" * 10**5, "isn't YAML: over 20 levels"),
        ("".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9 * bool(i)}]\n" for i in range(9)), "aliases"),
        ("#" * 2**19, "has more than 262,144 bytes"),
        (GOOD + "save_dtype: 2024-02-30", "isn't YAML: day is out of range"),
        (
            GOOD + f"max_memory: {'9' * 400}TB",
            "max_memory can't be '9.*: it must be a size such as",
        ),
        ("base: ~nosuchuser/x\nexperts: [e]\noutput: o", "base can't be .*a home folder that is"),
    ],
)
def test_wrong_files_are_answered_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, text)
    assert "merge.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_mapping_may_be_used_twice_by_an_alias(tmp_path):
    text = "base: b\nexperts: [e]\noutput: o\nparameters: {one: &a {x: 1}, two: *a}\n"
    assert load(tmp_path, text).parameters == {"one": {"x": 1}, "two": {"x": 1}}


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="can't be read: No such file"):
        load_config(tmp_path / "no.yaml")


def test_parameters_are_checked_by_the_method(tmp_path):
    config = load(tmp_path, GOOD + "parameters: {stps: 3}")
    with pytest.raises(InputError, match="unknown key 'stps'. Did you mean 'steps'"):
        config.method_settings()
    assert load(tmp_path, GOOD + "parameters: {lr: 1e-2}").method_settings().lr == 0.01


@pytest.mark.parametrize(
    ("value", "size"),
    [(7, 7), ("500MB", 5 * 10**8), ("1 GB", 10**9), ("1GiB", 2**30), ("1.5k", 1500), ("2T", 2e12)],
)
def test_sizes(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize("value", [0, -3, True, "GB", "1 PB", None])
def test_sizes_that_are_none(value):
    with pytest.raises(ValueError, match="size|byte"):
        parse_size(value)


@given(st.integers(1, 10**15))
def test_a_size_in_words_is_read_as_no_less(size):
    assert size <= parse_size(size_text(size)) <= max(1.1 * size, size + 100)


def test_ray_must_be_installed_for_its_engine(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="once Ray is installed"):
        load(tmp_path, GOOD + "engine: ray")


def test_an_id_on_the_hub_stays_one_unless_such_a_folder_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "base: org/base@v1.0\nexperts: [org/expert, ./org/expert, a/b/c]\noutput: o\n"
    config = load(tmp_path, text)
    assert config.base == "org/base@v1.0"
    assert [expert.path for expert in config.experts] == [
        "org/expert",
        Path("org/expert"),
        Path("a/b/c"),
    ]
    (tmp_path / "org" / "expert").mkdir(parents=True)
    assert load(tmp_path, text).experts[0].path == Path("org/expert")


def test_a_merge_is_the_same_once_written_and_read(tmp_path):
    """As a cluster's tasks and the manifest of an unfinished merge have it."""
    config = MergeConfig(
        base="base",
        experts=["one", {"path": "two", "weight": 0.5, "base": "own", "partial": True}],
        output="out",
        overrides=[{"names": "*q*", "method": "ties"}, {"layers": "3-"}, {"layers": 5}],
    )
    assert MergeConfig.model_validate(json.loads(config.model_dump_json())) == config
