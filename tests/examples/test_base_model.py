"""The quickstart's base model: what it is built from, and the shipped folder."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from examples.quickstart import base_model
from examples.quickstart.tasks import MAX_SENTENCES, TASKS, make_example, worked_answer


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(base_model.FOLDER)


@pytest.fixture(scope="module")
def model(processor):
    return base_model.build_model(processor).eval()


def test_tokenizer_is_the_one_the_script_builds(processor):
    built = base_model.build_tokenizer()
    assert built.get_vocab() == processor.tokenizer.get_vocab()
    rng = Random(5)
    for task in TASKS:
        text = worked_answer(make_example(task, rng), MAX_SENTENCES, rng)
        assert built(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_tokenizer_gives_words_digits_and_drawn_characters_a_token_each(processor):
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("The perimeter is 26.") == ["The", "Ġperimeter", "Ġis", *"Ġ26."]
    assert tokenizer.tokenize("Answer: HAT") == ["Ans", "wer", ":", *"ĠHAT"]
    assert len(tokenizer("\n")["input_ids"]) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_every_answer_fits_the_response_budget(processor):
    rng = Random(0)
    for task in TASKS:
        for _ in range(200):
            text = worked_answer(make_example(task, rng), MAX_SENTENCES, rng) + "<|im_end|>"
            assert len(processor.tokenizer(text)["input_ids"]) < base_model.MAX_RESPONSE


def test_patchify_is_what_the_image_processor_does(processor):
    images = [make_example(task, Random(1)).image for task in TASKS]
    expected = processor.image_processor(images, return_tensors="pt")
    pixels = base_model.patchify(np.stack(images), processor.image_processor)
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-5, rtol=0)
    assert expected["image_grid_thw"].tolist() == [list(base_model.GRID)] * len(TASKS)


def test_answering_loss_is_the_loss_of_the_whole_model(processor, model):
    recipe = replace(base_model.Recipe(), batch=3)
    batch = next(base_model.batches(processor, recipe, worked=True))
    expected = model(
        input_ids=batch.ids,
        labels=batch.labels,
        attention_mask=(batch.ids != processor.tokenizer.pad_token_id).long(),
        mm_token_type_ids=(batch.ids == model.config.image_token_id).int(),
        pixel_values=batch.pixels,
        image_grid_thw=torch.tensor([base_model.GRID]).expand(3, -1),
    ).loss
    reader = torch.nn.Linear(6 * 128, base_model.SLOTS * base_model.SYMBOLS)
    torch.testing.assert_close(base_model.losses(model, reader, batch)[0], expected)


def test_answers_without_explanation_come_first_and_without_slips(processor):
    recipe = replace(base_model.Recipe(), batch=3, slips=1.0)
    direct, worked = (
        next(base_model.batches(processor, recipe, worked=worked)) for worked in (False, True)
    )
    assert (direct.labels != -100).sum() < (worked.labels != -100).sum()


def test_training_lowers_the_loss(processor):
    torch.set_num_threads(1)
    model = base_model.build_model(processor)
    recipe = base_model.Recipe(direct_steps=15, worked_steps=15, batch=8, warmup=2, decay=5)
    losses = list(base_model.train(model, processor, recipe))
    assert len(losses) == recipe.steps
    assert np.mean(losses[10:15]) < losses[0]
    assert np.mean(losses[25:]) < losses[15]


def test_shipped_model_reads_the_pictures(processor):
    from transformers import AutoModelForImageTextToText

    shipped = AutoModelForImageTextToText.from_pretrained(base_model.FOLDER).eval()
    measured = base_model.measure(shipped, processor, count=32)
    for task, each in measured.items():
        assert each.scores.mean() > 0.6, task
        assert each.lengths.mean() > 20, task
        assert each.lengths.max() <= base_model.MAX_RESPONSE
