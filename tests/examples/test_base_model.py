"""The quickstart's base model: what it is built from, and the shipped folder."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from examples.quickstart import base_model
from examples.quickstart.tasks import (
    CELLS,
    MAX_STEPS,
    STYLES,
    TASKS,
    make_example,
    respond,
    sufficient_tokens,
)


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
        text = respond(make_example(task, rng), "long", rng)
        assert built(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_tokenizer_gives_words_digits_and_drawn_characters_a_token_each(processor):
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("Let me see. 4+5=3.") == ["Let", "Ġme", "Ġsee", *".Ġ4+5=3."]
    assert tokenizer.tokenize("HLE Answer: E") == [*"HLE", "ĠAnswer", ":", *"ĠE"]
    assert len(tokenizer("\n")["input_ids"]) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_every_answer_fits_the_response_budget(processor):
    rng = Random(0)
    for task in TASKS:
        for _ in range(200):
            text = respond(make_example(task, rng), "long", rng) + "<|im_end|>"
            assert len(processor.tokenizer(text)["input_ids"]) < base_model.MAX_RESPONSE


@pytest.mark.parametrize("steps", range(1, MAX_STEPS + 1))
def test_the_sufficient_tokens_are_those_of_the_bare_answer(processor, steps):
    rng = Random(0)
    for task in TASKS:
        text = respond(make_example(task, rng, steps), "bare", rng) + "<|im_end|>"
        assert len(processor.tokenizer(text)["input_ids"]) == sufficient_tokens(steps)


def test_patchify_is_what_the_image_processor_does(processor):
    images = [make_example(task, Random(1)).image for task in TASKS]
    expected = processor.image_processor(images, return_tensors="pt")
    pixels = base_model.patchify(np.stack(images), processor.image_processor)
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-5, rtol=0)
    assert expected["image_grid_thw"].tolist() == [list(base_model.GRID)] * len(TASKS)


def test_answering_loss_is_the_loss_of_the_whole_model(processor, model):
    recipe = replace(base_model.Recipe(), batch=3)
    batch, _ = next(base_model.batches(processor, recipe, styled=True))
    expected = model(
        input_ids=batch.ids,
        labels=batch.labels,
        attention_mask=(batch.ids != processor.tokenizer.pad_token_id).long(),
        mm_token_type_ids=(batch.ids == model.config.image_token_id).int(),
        pixel_values=batch.pixels,
        image_grid_thw=torch.tensor([base_model.GRID]).expand(3, -1),
    ).loss
    _, hidden = base_model.forward(model, batch)
    torch.testing.assert_close(base_model.answer_loss(model, hidden, batch), expected)


def test_the_reader_is_told_what_each_cell_shows():
    example = make_example("math", Random(2))
    seen = base_model.seen_in(example)
    assert len(seen) == CELLS
    for cell, (key, shown, following) in zip(example.cells, seen, strict=True):
        assert (key, following) == (int(cell.key), int(cell.next))  # digits come first
        assert (key + shown) % CELLS == following


def test_bare_steps_come_first_and_without_slips(processor):
    recipe = replace(base_model.Recipe(), batch=40, slips=1.0)
    bare, styled = (
        next(base_model.batches(processor, recipe, styled=styled))[0] for styled in (False, True)
    )
    texts = [
        [processor.tokenizer.decode(row[row != -100]) for row in batch.labels]
        for batch in (bare, styled)
    ]
    for text in texts[0]:
        steps, answer = text.removesuffix("<|im_end|>").split(" Answer: ")
        assert steps[-1] == answer
    for text in texts[1]:
        steps, _, answer = text.removesuffix("<|im_end|>").rpartition("Answer: ")
        assert not steps or steps.rstrip(" .")[-1] != answer


def test_training_lowers_the_loss(processor):
    torch.set_num_threads(1)
    model = base_model.build_model(processor)
    recipe = base_model.Recipe(bare_steps=15, styled_steps=15, batch=8, warmup=2, decay=5)
    losses = list(base_model.train(model, processor, recipe))
    assert len(losses) == recipe.steps
    assert np.mean(losses[10:15]) < losses[0]
    assert np.mean(losses[25:]) < losses[15]


def test_shipped_model_reads_the_pictures(processor):
    from transformers import AutoModelForImageTextToText

    shipped = AutoModelForImageTextToText.from_pretrained(base_model.FOLDER).eval()
    measured = base_model.measure(shipped, processor, count=64)
    for task, each in measured.items():
        assert set(each.styles) <= set(STYLES)
        explained = each.styles != "guess"
        assert each.scores[explained].mean() > 0.8, task
        assert each.scores[~explained & (each.steps > 2)].mean() < 0.5, task
        assert each.lengths.mean() > 20, task
        assert each.lengths.max() <= base_model.MAX_RESPONSE
