"""Schemes from outside the package, and LIPO in a trainer of one's own: the examples of
docs/extend.md and docs/schemes.md, run as they stand."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lipo_verl.batch import Memory, estimate, token_advantages
from lipo_verl.config import LipoConfig, LipoConfigError
from lipo_verl.schemes import get_scheme, registry, schemes

DOCS = Path(__file__).parents[2] / "docs"
EXTEND = (DOCS / "extend.md").read_text(encoding="utf-8")
SCHEMES = (DOCS / "schemes.md").read_text(encoding="utf-8")


def example(page, containing):
    return next(
        text for text in re.findall(r"```python\n(.*?)```", page, re.S) if containing in text
    )


@pytest.fixture
def install(distribution, monkeypatch):
    """Installs another package's scheme."""
    monkeypatch.setattr(registry, "_SCHEMES", dict(registry._SCHEMES))
    registry._load_entry_points.cache_clear()

    def add(module, source):
        distribution(module, source, f"[lipo_verl.schemes]\n{module} = {module}\n")

    yield add
    registry._load_entry_points.cache_clear()


def test_one_file_and_one_entry_point_make_a_scheme(install):
    assert '[project.entry-points."lipo_verl.schemes"]\nshortest_first = "shortest_first"' in EXTEND
    install("shortest_first", example(EXTEND, "def shortest_first"))
    config = LipoConfig.parse({"scheme": "shortest_first", "prize": 0.5, "normalization": "none"})
    scores, lengths = np.array([1.0, 1.0, 0.0, 0.0]), np.array([30, 20, 10, 40])
    advantages, (group,) = estimate(scores, lengths, np.zeros(4, bool), ["a"] * 4, config)
    assert group.rewards.shape == (1, 4)
    assert advantages.tolist() == [0.375, 0.875, -0.625, -0.625]
    assert "shortest_first" in [scheme.name for scheme in schemes()]
    with pytest.raises(LipoConfigError, match="Did you mean algorithm.lipo.prize"):
        LipoConfig.parse({"scheme": "shortest_first", "price": 1})


def test_a_known_scheme_loads_no_other_package(install):
    install("loud", "raise RuntimeError")
    assert get_scheme("lipo").name == "lipo"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "from lipo_verl.schemes import register\n@register('kimi')\ndef mine(r, s): return r",
            "ValueError: the scheme name 'kimi' belongs to lipo_verl.schemes.kimi.kimi already",
        ),
    ],
)
def test_a_scheme_that_cannot_be_loaded_is_named_and_no_other_suffers(
    install, caplog, source, reason
):
    install("broken", source)
    caplog.set_level(logging.WARNING)
    with pytest.raises(LipoConfigError, match="no such scheme"):
        LipoConfig.parse({"scheme": "broken"})
    assert "the length scheme 'broken' (broken) of another package can't be used" in caplog.text
    assert reason in caplog.text
    assert get_scheme("kimi").function.__module__ == "lipo_verl.schemes.kimi"


def test_registering_the_same_scheme_again_is_fine():
    scheme = get_scheme("kimi")
    registry.register("kimi", settings=scheme.settings)(scheme.function)
    assert get_scheme("kimi") == scheme


# A trainer of one's own

FILLER, ANSWER, END = range(3)


class Policy(torch.nn.Module):
    """A bigram model over three tokens: chatter, the answer, the end."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([[2.0, 0.5, -1.0]] * 3))

    def sample(self, prompts, completions, budget):
        last = torch.zeros(prompts * completions, dtype=torch.long)
        alive = torch.ones(prompts * completions)
        tokens, mask, log_probs = [], [], []
        for _ in range(budget):
            distribution = torch.distributions.Categorical(logits=self.logits[last])
            last = distribution.sample()
            tokens.append(last)
            mask.append(alive)
            log_probs.append(distribution.log_prob(last))
            alive = alive * (last != END)
        return torch.stack(tokens, 1), torch.stack(mask, 1), torch.stack(log_probs, 1)


def score(tokens, mask):
    return ((tokens == ANSWER) & (mask > 0)).any(1).float()


def trained(source):
    """The metrics of every step of the documentation's loop."""
    torch.manual_seed(0)
    seen = []
    policy = Policy()
    names = {
        "torch": torch,
        "policy": policy,
        "score": score,
        "optimizer": torch.optim.Adam(policy.parameters(), lr=0.1),
        "log": lambda step, metrics: seen.append(metrics),
    }
    exec(compile(source, "docs/schemes.md", "exec"), names)
    return seen


def test_the_documented_loop_learns_to_answer_briefly():
    seen = trained(example(SCHEMES, "token_advantages"))
    before, after = seen[0], seen[-1]
    assert len(seen) == 60
    assert after["lipo/accuracy"] >= 0.9
    assert after["lipo/length"] < 0.5 * before["lipo/length"]


def test_without_a_length_scheme_the_same_loop_stays_as_long():
    source = example(SCHEMES, "token_advantages")
    settings = "length_threshold=24, std_floor=0.1, response_budget=24"
    assert settings in source
    as_grpo = trained(source.replace(settings, "boost=0, weights='none', response_budget=24"))
    lipo = trained(source)
    assert lipo[-1]["lipo/length"] < 0.7 * as_grpo[-1]["lipo/length"]


def test_a_scheme_with_a_memory_asks_for_it():
    rewards, mask = torch.eye(4, 8), torch.ones(4, 8)
    config = LipoConfig(scheme="laser_d")
    with pytest.raises(ValueError, match="pass memory=Memory"):
        token_advantages(rewards, mask, [0] * 4, config)
    memory = Memory()
    for age in range(3):
        token_advantages(rewards, mask, [0] * 4, config, memory=memory)
        assert memory.state["target_age"] == age
