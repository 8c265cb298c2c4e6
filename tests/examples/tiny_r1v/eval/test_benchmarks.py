"""The ten benchmarks: scores out of VLMEvalKit's metrics, and its configuration file."""

import json
from pathlib import Path

import pytest

from amm import InputError
from examples.tiny_r1v.data.schema import PROMPT_SUFFIX
from examples.tiny_r1v.eval import benchmarks
from examples.tiny_r1v.eval.benchmarks import BENCHMARKS
from tests.examples.tiny_r1v.eval.kit import METRICS

FOLDER = Path(benchmarks.__file__).parent


@pytest.mark.parametrize("benchmark", [each for each in BENCHMARKS if not each.in_csv])
def test_the_papers_unit_comes_out_of_vlmevalkits_metrics(benchmark):
    assert benchmark.score(METRICS[benchmark.dataset]) == pytest.approx(benchmark.tiny_r1v)


def test_metrics_of_another_kind_are_an_error_that_names_them():
    with pytest.raises(InputError, match="MMStar: one metric .* there are 0 among acc, tot"):
        BENCHMARKS[-1].score({"acc": 1, "tot": 2})
    with pytest.raises(InputError, match="there are 2"):
        BENCHMARKS[-1].score({"split=dev|Overall": 1, "split=val|Overall": 2})


def test_the_papers_numbers_are_those_of_its_main_result():
    assert [each.tiny_r1v for each in BENCHMARKS] == [
        65.5, 23.7, 38.0, 30.8, 84.8, 31.8, 83.5, 16.2, 2300, 60.8
    ]  # fmt: skip
    assert [each.base for each in BENCHMARKS] == [
        62.3, 21.2, 31.2, 22.9, 84.0, 31.3, 79.7, 12.2, 2157, 55.9
    ]  # fmt: skip


def test_the_configuration_file_names_the_same_datasets_and_classes():
    config = json.loads((FOLDER / "vlmevalkit.json").read_text())
    assert config["data"] == {
        each.dataset: {"class": each.dataset_class, "dataset": each.dataset} for each in BENCHMARKS
    }
    assert config["model"]["tiny-r1v-3b"]["system_prompt"] == PROMPT_SUFFIX


def test_the_chat_template_is_qwens_with_the_training_datas_last_words():
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(*messages):
        template = (FOLDER / "think_boxed.jinja").read_text()
        rendered, _ = render_jinja_template(
            [list(messages)], chat_template=template, add_generation_prompt=True
        )
        return rendered[0]

    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    asked = {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    question = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?\n"
        f"{PROMPT_SUFFIX}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(asked) == system + question
    other = {"role": "system", "content": "Be brief."}
    assert render(other, asked) == "<|im_start|>system\nBe brief.<|im_end|>\n" + question
    plain = render({"role": "user", "content": "Hello"})
    assert plain.startswith(f"{system}<|im_start|>user\nHello\n{PROMPT_SUFFIX}<|im_end|>")
