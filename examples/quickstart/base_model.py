"""The quickstart's base model: a Qwen2.5-VL of 1.1 million parameters, right but long-winded.

Builds the tokenizer, the processor and the model, and trains it on answers in every style
(`tasks.respond`), so that reinforcement learning finds short right answers to prefer, and shorter
wrong ones to be wary of.

    python -m examples.quickstart.base_model        # makes examples/quickstart/base_model/ again

The result is kept in the repository: making it takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.functional import cross_entropy

from examples.quickstart.tasks import (
    CELLS,
    COLUMNS,
    MAX_STEPS,
    REWARDS,
    ROWS,
    STYLES,
    SYMBOLS,
    TASKS,
    Example,
    make_example,
    respond,
    slip,
    style_of,
)
from lipo_verl.cpu import torch_extensions
from lipo_verl.rewards.scoring import RewardConfig, score_response

torch_extensions.install()  # before transformers imports torchvision

from transformers import (  # noqa: E402
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

FOLDER = Path(__file__).with_name("base_model")
GRID = (1, 2 * ROWS, 2 * COLUMNS)  # time, rows, columns of patches
VOCABULARY = 512
MAX_RESPONSE = 64

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer whose merges are learnt from this project's own sentences."""
    rng = Random(seed)
    corpus = []
    for task in TASKS:
        for _ in range(3000):
            example = make_example(task, rng)
            corpus += [example.question]
            corpus += [respond(example, style, rng) for style in ("told", "long")]
    corpus += ["user", "assistant", "system"] * 1000
    # What is drawn stays one token a character: nothing in capitals is offered for merging.
    corpus = [
        " ".join(w for w in line.split(" ") if w == "I" or not w.isupper()) for line in corpus
    ]

    alphabet = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    untrained = Qwen2Tokenizer(vocab=alphabet, merges=[])
    learnt = untrained.train_new_from_iterator(
        corpus, VOCABULARY - len(SPECIAL_TOKENS), show_progress=False
    )
    model = json.loads(learnt.backend_tokenizer.to_str())["model"]
    words = sorted(set(model["vocab"]) - set(SPECIAL_TOKENS), key=model["vocab"].get)
    return Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[
            token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")
        ],
        model_max_length=512,
    )


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor, for pictures of up to 16 image tokens."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    processor: Qwen2_5_VLProcessor, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained model that fits the processor's tokens."""
    tokenizer = processor.tokenizer
    ids = dict(
        zip(
            SPECIAL_TOKENS,
            tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)),
            strict=True,
        )
    )
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.06,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10.0,  # the columns of a picture take the lowest frequencies
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": 128,
            "window_size": 112,
            "initializer_range": 0.06,
            "fullatt_block_indexes": [2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def patchify(pictures: np.ndarray, processor: Qwen2VLImageProcessor) -> torch.Tensor:
    """What the image processor makes of equally large pictures, for many at once.

    Args:
        pictures: (N, H, W, 3) of bytes.

    Returns:
        (N * H/14 * W/14, 3 * 2 * 14 * 14), a 2x2 block of patches at a time.
    """
    patch, merge = processor.patch_size, processor.merge_size
    n, height, width, _ = pictures.shape
    pixels = torch.from_numpy(pictures).float() * processor.rescale_factor
    pixels = (pixels - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    blocks = pixels.view(
        n,
        height // patch // merge,
        merge,
        patch,
        width // patch // merge,
        merge,
        patch,
        3,
    ).permute(0, 1, 4, 2, 5, 7, 3, 6)  # (N, rows, columns, 2, 2, 3, 14, 14)
    twice = blocks.unsqueeze(6).expand(*[-1] * 6, processor.temporal_patch_size, -1, -1)
    return twice.reshape(n * (height // patch) * (width // patch), -1)


@dataclass(frozen=True)
class Recipe:
    """How the base model is trained."""

    bare_steps: int = 450
    """First, bare steps alone: pictures and chains are learnt from them several times faster."""
    styled_steps: int = 1450
    """Then answers in all styles."""
    batch: int = 40
    learning_rate: float = 1.5e-3
    warmup: int = 200
    decay: int = 1200
    """Over so many last steps the learning rate falls to zero along a cosine."""
    weight_decay: float = 0.05
    seed: int = 7
    style_weights: tuple[float, ...] = (0.08, 0.14, 0.14, 0.64)
    """How often an answer is written in each of `tasks.STYLES`."""
    slips: float = 0.05
    """How often a styled answer is a wrong one, so that there is something left to learn."""

    @property
    def steps(self) -> int:
        return self.bare_steps + self.styled_steps

    def learning_rate_at(self, step: int) -> float:
        left = min(1.0, (self.steps - step) / self.decay)
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * (1 - math.cos(math.pi * left)) / 2


_SYMBOLS = sorted(set("".join(SYMBOLS.values())))


def seen_in(example: Example) -> list[list[int]]:
    """The cells of the picture: of each the numbers of its key, of what it shows, of the next."""
    return [
        [_SYMBOLS.index(symbol) for symbol in (cell.key, cell.shown, cell.next)]
        for cell in example.cells
    ]


@dataclass(frozen=True)
class Batch:
    """Answers to learn: N examples, padded at the right to L tokens."""

    ids: torch.Tensor  # (N, L)
    labels: torch.Tensor  # (N, L), -100 at the prompt and the padding
    pixels: torch.Tensor  # (N * patches, 1176)


def collate(processor: Qwen2_5_VLProcessor, rows: Sequence[tuple[Image.Image, str, str]]) -> Batch:
    """A batch of pictures, what is asked about each, and the answers to learn."""
    tokenizer = processor.tokenizer
    prompts = [_prompt_ids(processor, question) for _, question, _ in rows]
    answers = [tokenizer(answer + tokenizer.eos_token)["input_ids"] for *_, answer in rows]
    length = max(len(asked) + len(said) for asked, said in zip(prompts, answers, strict=True))
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for i, (asked, said) in enumerate(zip(prompts, answers, strict=True)):
        end = len(asked) + len(said)
        ids[i, :end] = torch.tensor(asked + said)
        labels[i, len(asked) : end] = torch.tensor(said)
    pictures = np.stack([np.asarray(picture) for picture, *_ in rows])
    return Batch(ids, labels, patchify(pictures, processor.image_processor))


@cache
def _prompt_ids(processor: Qwen2_5_VLProcessor, question: str) -> list[int]:
    text = prompt(processor, question).replace("<|image_pad|>", "<|image_pad|>" * CELLS)
    return processor.tokenizer(text)["input_ids"]


def batches(
    processor: Qwen2_5_VLProcessor, recipe: Recipe, styled: bool
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Fresh examples without end, with what was drawn in each, (N, CELLS, 3)."""
    rng = Random(f"{recipe.seed} {styled}")

    def answered(example: Example) -> str:
        answer = respond(example, "bare", rng)
        if styled:
            (style,) = rng.choices(STYLES, recipe.style_weights)
            answer = respond(example, style, rng)
            if rng.random() < recipe.slips:
                answer = answer.removesuffix(example.answer) + slip(example, rng)
        return answer

    while True:
        examples, rows = [], []
        for _ in range(recipe.batch):
            example = make_example(rng.choice(TASKS), rng)
            examples.append(example)
            rows.append((example.image, example.question, answered(example)))
        yield collate(processor, rows), torch.tensor([seen_in(example) for example in examples])


def train(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    recipe: Recipe,
) -> Iterator[float]:
    """Train the model in place, one step for each loss yielded.

    Answers alone teach a vision tower slowly. A linear layer that tells from each image token what
    its cell shows, and is thrown away afterwards, teaches it beside them.
    """
    reader = build_reader(model)
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    source = chain(
        islice(batches(processor, recipe, styled=False), recipe.bare_steps),
        islice(batches(processor, recipe, styled=True), recipe.styled_steps),
    )
    model.train()
    for step, (batch, drawn) in enumerate(source):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        seen, hidden = forward(model, batch)
        answering, reading = answer_loss(model, hidden, batch), reading_loss(reader, seen, drawn)
        optimizer.zero_grad()
        (answering + reading).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield answering.item()
    model.eval()


def build_reader(model: Qwen2_5_VLForConditionalGeneration) -> torch.nn.Linear:
    """The layer that tells from an image token what `seen_in` has of its cell."""
    return torch.nn.Linear(model.config.text_config.hidden_size, 3 * len(_SYMBOLS))


def reading_loss(reader: torch.nn.Linear, seen: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of what the reader tells from the image tokens, (N * CELLS, width)."""
    return cross_entropy(reader(seen).view(-1, len(_SYMBOLS)), drawn.flatten())


def forward(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image tokens, (N * CELLS, width), and the last hidden states, (N, L, width)."""
    examples = len(batch.ids)
    grid = torch.tensor([GRID]).expand(examples, -1)
    seen = model.model.visual(batch.pixels, grid_thw=grid).pooler_output
    is_image = batch.ids == model.config.image_token_id
    # Every picture has the same size and place, so one row's positions are every row's.
    positions, _ = model.model.get_rope_index(
        batch.ids[:1], is_image[:1].int(), image_grid_thw=grid[:1]
    )
    words = model.get_input_embeddings()(batch.ids)
    hidden = model.model.language_model(
        inputs_embeds=words.masked_scatter(is_image.unsqueeze(-1), seen),
        position_ids=positions.expand(-1, examples, -1),
        use_cache=False,
    ).last_hidden_state
    return seen, hidden


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration, hidden: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens."""
    wanted = batch.labels[:, 1:]
    answered = wanted != -100
    return cross_entropy(model.lm_head(hidden[:, :-1][answered]), wanted[answered])


def prompt(processor: Qwen2_5_VLProcessor, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=False,
    )


@torch.no_grad()
def sample(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    examples: list[Example],
) -> list[tuple[str, int]]:
    """One answer to each example at temperature 1, with its length in tokens."""
    inputs = processor(
        text=[prompt(processor, example.question) for example in examples],
        images=[example.image for example in examples],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=MAX_RESPONSE)
    answers = tokens[:, inputs["input_ids"].shape[1] :]
    lengths = (answers != processor.tokenizer.pad_token_id).sum(dim=1).tolist()
    texts = processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return list(zip(texts, lengths, strict=True))


@dataclass(frozen=True)
class Measured:
    """A sampled answer to each of one task's examples."""

    scores: np.ndarray
    lengths: np.ndarray  # in tokens
    styles: np.ndarray  # of `tasks.STYLES`
    steps: np.ndarray  # that the questions asked for


def measure(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    count: int = 600,
    seed: int = 1,
) -> dict[str, Measured]:
    """Sample one answer each to fresh examples of every task."""
    torch.manual_seed(seed)
    measured = {}
    for task in TASKS:
        rng = Random(f"measure {task} {seed}")
        examples = [make_example(task, rng) for _ in range(count)]
        answers = sample(model, processor, examples)
        rows = [
            (
                score_response(text, example.answer, REWARDS[task], RewardConfig())["score"],
                length,
                style_of(text),
                example.steps,
            )
            for (text, length), example in zip(answers, examples, strict=True)
        ]
        measured[task] = Measured(*map(np.array, zip(*rows, strict=True)))
    return measured


def _card_rows(measured: dict[str, Measured]) -> Iterator[list[str]]:
    """The table of the model card: accuracy and share of answers by style and steps."""
    yield [
        "task",
        "style",
        "share",
        "mean length",
        *(f"{n} step(s)" for n in range(1, MAX_STEPS + 1)),
    ]
    yield ["---"] * (4 + MAX_STEPS)
    for task, each in measured.items():
        for style in (*STYLES, "all"):
            those = np.full(len(each.styles), True) if style == "all" else each.styles == style
            if not those.any():
                continue
            scores = [
                each.scores[those & (each.steps == steps)] for steps in range(1, MAX_STEPS + 1)
            ]
            yield [
                task,
                style,
                f"{those.mean():.0%}",
                f"{each.lengths[those].mean():.1f}",
                *(f"{some.mean():.2f}" if len(some) else "-" for some in scores),
            ]


def model_card(
    model: Qwen2_5_VLForConditionalGeneration,
    recipe: Recipe,
    minutes: float,
    measured: dict[str, Measured],
) -> str:
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in _card_rows(measured))
    shares = ", ".join(
        f"{style} {weight:.0%}" for style, weight in zip(STYLES, recipe.style_weights, strict=True)
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# Base model of the quickstart

A `Qwen2_5_VLForConditionalGeneration` of {model.num_parameters():,} parameters, trained from
nothing on three drawn tasks (`examples/quickstart/tasks.py`) whose questions take one to
{MAX_STEPS} steps: moves on a dial, bars that name bars, cards that name cards. It answers rightly
where it writes the steps down, mostly at needless length, and can't leave them out: reinforcement
learning has something to gain by shortening and something to lose. It is of no use for anything
else.

Made by `python -m examples.quickstart.base_model` with seed {recipe.seed}: {recipe.steps} steps of
{recipe.batch} examples, the first {recipe.bare_steps} of them bare steps, then all styles
({shares}; {recipe.slips:.0%} of the answers wrong on purpose), in {minutes:.0f} minutes on
{torch.get_num_threads()} CPU thread(s).

Sampled at temperature 1, {len(measured[TASKS[0]].scores)} fresh examples per task; lengths in
tokens; accuracy by the steps that the question asks for:

{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model is saved")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads to use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(seed=arguments.seed)

    processor = build_processor(build_tokenizer())
    model = build_model(processor, recipe.seed)
    columns = (
        TextColumn("training  loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=recipe.steps, loss=math.nan)
        for loss in train(model, processor, recipe):
            progress.update(bar, advance=1, loss=loss)
    minutes = (time.monotonic() - started) / 60

    model.save_pretrained(arguments.folder)
    processor.save_pretrained(arguments.folder)
    card = model_card(model, recipe, minutes, measure(model, processor))
    Path(arguments.folder, "README.md").write_text(card, encoding="utf-8")
    print(f"Saved {arguments.folder}")


if __name__ == "__main__":
    main()
