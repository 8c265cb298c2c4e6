"""Tokens of every answer in VLMEvalKit's prediction files, and the final answer for its scorers.

    python -m examples.tiny_r1v.eval.predictions outputs/tiny-r1v-3b --tokenizer models/3b/amm

To be run between VLMEvalKit's ``--mode infer`` and ``--mode eval``, both with ``PRED_FORMAT=tsv``.
Adds two columns to the model's newest prediction files: ``response_tokens``, and ``full_response``,
what the model wrote; ``prediction`` becomes what is in its last ``\\boxed{}`` outside its thoughts,
where there is one. Several of VLMEvalKit's scorers compare or search the whole prediction: a right
answer in a box would be wrong (ChartQA), and a thought that mentions the answer right (OCRBench).

Counts are of the text by the model's own tokenizer, without the end-of-turn token. A file that has
the columns is left alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from amm import InputError
from examples.tiny_r1v.eval.benchmarks import BENCHMARKS
from examples.whole import whole
from lipo_verl.rewards.extract import final_answer

FAILED = "Failed to obtain answer"
"""How VLMEvalKit marks a question that the server didn't answer; it asks again with ``--reuse``."""

TOKENS, RESPONSE = "response_tokens", "full_response"

csv.field_size_limit(2**30)

Count = Callable[[Sequence[str]], list[int]]
"""Texts → their numbers of tokens."""


def tokenizer(path: str) -> Count:
    """Counts with the ``tokenizer.json`` of a folder or of a model on the Hub.

    Raises amm.InputError where the folder has none.
    """
    from tokenizers import Tokenizer

    if Path(path).is_dir():
        file = Path(path, "tokenizer.json")
        if not file.is_file():
            raise InputError(f"{path} has no tokenizer.json.")
        loaded = Tokenizer.from_file(str(file))
    else:
        loaded = Tokenizer.from_pretrained(path)
    loaded.no_padding()  # a saved tokenizer may pad and cut
    loaded.no_truncation()

    def count(texts: Sequence[str]) -> list[int]:
        encoded = loaded.encode_batch(list(texts), add_special_tokens=False)
        return [len(each.ids) for each in encoded]

    return count


def newest(model: Path) -> dict[str, Path]:
    """The newest prediction file of each of the recipe's benchmarks, by the dataset's name.

    model: ``<work dir>/<model's name>``, with a folder ``T<date>-<time>`` for each run

    Raises amm.InputError where there are none, or not as TSV.
    """
    files = {}
    for run in sorted(model.glob("T*-*")):
        for benchmark in BENCHMARKS:
            file = run / f"{model.name}_{benchmark.dataset}.tsv"
            if file.is_file():
                files[benchmark.dataset] = file
    if not files:
        hint = ""
        if any(model.glob("T*-*/*.xlsx")):
            hint = " There are .xlsx files, which can't hold long answers: set PRED_FORMAT=tsv."
        raise InputError(f"{model} has no prediction files T*/{model.name}_<dataset>.tsv.{hint}")
    return files


def annotate(file: Path, count: Count) -> int:
    """Adds the columns to a prediction file, and returns how many answers it has.

    Raises amm.InputError where it isn't a prediction file.
    """
    rows = read(file)
    if TOKENS in rows[0]:
        return len(rows)
    tokens = count([row["prediction"] for row in rows])
    for row, number in zip(rows, tokens, strict=True):
        response = row["prediction"]
        failed = FAILED in response
        row[RESPONSE] = response
        row[TOKENS] = "" if failed else str(number)
        row["prediction"] = response if failed else final_answer(response, "boxed") or response
    with whole(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(
            lines, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a prediction file.

    Raises amm.InputError where it isn't one.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    if not rows or not {"index", "prediction"} <= set(rows[0]):
        raise InputError(f"{file} isn't a prediction file: it needs the columns index, prediction.")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="VLMEvalKit's output of one model")
    parser.add_argument("--tokenizer", required=True, help="the model's folder or Hub id")
    arguments = parser.parse_args()
    try:
        files = newest(arguments.model)
        count = tokenizer(arguments.tokenizer)
        for dataset, file in files.items():
            print(f"{dataset:<28} {annotate(file, count):>6} answers  {file}")
    except InputError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
