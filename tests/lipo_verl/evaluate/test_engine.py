"""What is asked of vLLM; the real one is in tests/examples/test_train.py."""

from dataclasses import make_dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lipo_verl.evaluate import engine
from lipo_verl.evaluate.engine import Answer, Sampling
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.inputs import Model

MODEL = Model("mine", "org/mine")
GREEDY = Sampling()


class FakeLLM:
    made: list["FakeLLM"] = []

    def __init__(self, path, **settings):
        if settings.get("dtype") == "impossible":
            raise ValueError("no such dtype")
        self.path, self.settings, self.running = path, settings, True
        self.llm_engine = SimpleNamespace(engine_core=self)
        FakeLLM.made.append(self)

    def shutdown(self):
        self.running = False

    def chat(self, conversations, parameters, use_tqdm):
        assert use_tqdm is False
        self.parameters = parameters
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(text=each, token_ids=[1] * len(each), finish_reason=reason)
                ]
            )
            for each, reason in zip(conversations, ("stop", "length"), strict=True)
        ]


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM = FakeLLM
    module.SamplingParams = SimpleNamespace
    module.EngineArgs = make_dataclass("EngineArgs", ["max_model_len", "dtype"])
    monkeypatch.setitem(__import__("sys").modules, "vllm", module)
    FakeLLM.made.clear()


def load(sampling=GREEDY, **options):
    return engine.load(MODEL, sampling, images=2, tensor_parallel=4, options=options)


def test_an_answer_is_text_length_and_whether_it_was_cut():
    with load() as loaded:
        answers = loaded.answer(["four", "eleven"], [0, 1])
    assert answers == [Answer("four", 4, False), Answer("eleven", 6, True)]


def test_greedy_answers_have_no_seed():
    with load(Sampling(temperature=0, max_tokens=7, seed=5)) as loaded:
        loaded.answer(["a", "b"], [0, 1])
        parameters = FakeLLM.made[0].parameters
    assert [each.seed for each in parameters] == [None, None]
    assert parameters[0].max_tokens == 7


def test_every_row_has_a_seed_of_its_own_wherever_it_is_answered():
    with load(Sampling(temperature=1, seed=100)) as loaded:
        loaded.answer(["a", "b"], [3, 8])
        parameters = FakeLLM.made[0].parameters
    assert [each.seed for each in parameters] == [103, 108]


def test_options_win_and_the_cpus_are_for_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with load(max_model_len=128):
        settings = FakeLLM.made[-1].settings
    assert settings["max_model_len"] == 128
    assert settings["limit_mm_per_prompt"] == {"image": 2, "video": 0}
    assert settings["tensor_parallel_size"] == 4
    assert settings["dtype"] == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with load():
        assert "dtype" not in FakeLLM.made[-1].settings


def test_a_model_that_does_not_load_is_named():
    with pytest.raises(EvaluationError, match="vLLM can't load org/mine: no such dtype"):
        with load(dtype="impossible"):
            pass


def test_the_model_is_let_go_when_the_block_is_left():
    with load() as loaded:
        assert loaded._llm is FakeLLM.made[0] and FakeLLM.made[0].running
    assert loaded._llm is None and not FakeLLM.made[0].running


def test_an_option_that_vllm_does_not_have_gets_a_hint():
    engine.check_options({"max_model_len": 5})
    with pytest.raises(EvaluationError, match="no option max_modle_len. Did you mean max_model_l"):
        engine.check_options({"max_modle_len": 5})


def test_without_vllm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(EvaluationError, match=r"pip install '\.\[gpu,evaluate\]'"):
        engine.check_options({})
