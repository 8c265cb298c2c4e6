"""The datasets of each expert: where they lie, how much of each is taken, under which licence.

The six datasets of the structure expert are the paper's [V]. Those of the mathematics and OCR
experts, all shares, and the copies on the Hub are our choice [ours]; docs/recipe/data.md says why.
"""

from dataclasses import dataclass

from examples.tiny_r1v.data import converters
from examples.tiny_r1v.data.fetch import Repository
from examples.tiny_r1v.data.readers import (
    ChartGalaxyReader,
    ParquetReader,
    Reader,
    TatDqaReader,
)


@dataclass(frozen=True)
class Source:
    """A dataset of an expert.

    share:       rows of it in the expert's default number of rows
    per_picture: the most questions about one picture or table
    license:     of the dataset as its publisher states it, as far as it was found
    """

    name: str
    repository: Repository
    reader: Reader
    share: int
    license: str
    per_picture: int = 1


SOURCES: dict[str, tuple[Source, ...]] = {
    "math": (
        Source(
            "geometry3k",
            Repository("hiyouga/geometry3k", ("data/train-*.parquet",)),
            ParquetReader(converters.geometry3k, ("problem", "answer"), "images"),
            share=2000,
            license="MIT",
        ),
        Source(
            "mmr1",
            Repository("MMR1/MMR1-Math-RL-Data-v0", ("data/train-*.parquet",), gigabytes=0.1),
            ParquetReader(converters.mmr1, ("problem", "answer"), "images"),
            share=4000,
            license="not stated on the dataset's page",
        ),
        Source(
            "mmk12",
            Repository("FanqingM/MMK12", ("data/train-*.parquet",)),
            ParquetReader(converters.mmk12, ("question", "answer"), "image"),
            share=9000,
            license="Apache-2.0",
        ),
    ),
    "structure": (
        Source(
            "tat_dqa",
            Repository(
                "next-tat/TAT-DQA",
                ("tatdqa_dataset_train.json", "tatdqa_docs_train.zip"),
                gigabytes=1.2,
            ),
            TatDqaReader(),
            share=2500,
            license="CC-BY-4.0",
            per_picture=3,
        ),
        Source(
            "wtq",
            Repository(
                "stanfordnlp/wikitablequestions",
                ("random-split-1/train/*.parquet",),
                revision="refs/convert/parquet",
            ),
            ParquetReader(converters.wikitablequestions, ("question", "answers", "table")),
            share=2500,
            license="CC-BY-4.0 (the copy; its authors' release: CC-BY-SA-4.0)",
            per_picture=6,
        ),
        Source(
            "tqa",
            Repository("HuggingFaceM4/the_cauldron", ("tqa/train-*.parquet",), gigabytes=0.4),
            ParquetReader(converters.tqa, ("texts",), "images", split=converters.turns),
            share=2500,
            license="CC-BY-NC-3.0",
            per_picture=4,
        ),
        Source(
            "tabfact",
            Repository(
                "wenhu/tab_fact", ("tab_fact/train/*.parquet",), revision="refs/convert/parquet"
            ),
            ParquetReader(
                converters.tabfact, ("table_text", "table_caption", "statement", "label")
            ),
            share=2500,
            license="CC-BY-4.0",
        ),
        Source(
            "chartgalaxy",
            Repository("ChartGalaxy/ChartGalaxy", ("synthetic/dataset_*.tar",), limit=2),
            ChartGalaxyReader(),
            share=2500,
            license="Apache-2.0 (its code; the data's licence was not found)",
        ),
        Source(
            "plotqa",
            Repository(
                "HuggingFaceM4/the_cauldron", ("plotqa/train-*.parquet",), limit=2, gigabytes=0.6
            ),
            ParquetReader(converters.plotqa, ("texts",), "images", split=converters.turns),
            share=2500,
            license="CC-BY-4.0",
        ),
    ),
    "ocr": (
        Source(
            "iam_line",
            Repository("Teklia/IAM-line", ("data/train*.parquet",)),
            ParquetReader(converters.iam_line, ("text",), "image"),
            share=2000,
            license="MIT (the copy; the IAM database itself: non-commercial research)",
        ),
        Source(
            "ocr_vqa",
            Repository("howard-hou/OCR-VQA", ("data/train-*.parquet",), limit=2, gigabytes=0.9),
            ParquetReader(
                converters.ocr_vqa,
                ("questions", "answers", "title", "authorName"),
                "image",
                split=converters.ocr_vqa_turns,
            ),
            share=2000,
            license="not stated on the dataset's page",
        ),
        Source(
            "docvqa",
            Repository("HuggingFaceM4/DocumentVQA", ("data/train-*.parquet",), limit=8),
            ParquetReader(converters.docvqa, ("question", "answers"), "image"),
            share=3000,
            license="not stated on the dataset's page",
            per_picture=2,
        ),
        Source(
            "textvqa",
            Repository("lmms-lab/textvqa", ("data/train-*.parquet",), limit=5, gigabytes=1.5),
            ParquetReader(converters.textvqa, ("question", "answers"), "image"),
            share=3000,
            license="CC-BY-4.0",
        ),
    ),
}
"""Largest last: a source that runs a little short is made up for by the next ones."""

MODEL = Repository("Qwen/Qwen2.5-VL-3B-Instruct", ("*",), gigabytes=7.5, kind="model")
"""The experts' base."""

DEFAULT_COUNT = {
    expert: sum(source.share for source in sources) for expert, sources in SOURCES.items()
}
"""15K, 15K and 10K: the paper's numbers [V]."""
