"""Small copies of all datasets, in the layouts and schemas that they have on the Hub.

docs/recipe/data.md says where each schema was read. Each has awkward rows at its end: missing
fields, pictures that can't be read, repeated rows, several questions about a picture.
"""

import io
import json
import random
import tarfile
import zipfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STRINGS = pa.list_(pa.string())

ENOUGH = 60
"""Rows of each source, without the awkward ones."""

BROKEN = {"bytes": b"\x89PNG no picture", "path": "broken.png"}


def picture(name, size=(120, 90), format="PNG", mode="RGB", **save):
    """A picture unlike any other name's, encoded."""
    drawn = random.Random(name)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    width, height = size
    for _ in range(12):
        x, y = drawn.randrange(width), drawn.randrange(height)
        box = (
            x,
            y,
            x + drawn.randrange(4, 2 + width // 3),
            y + drawn.randrange(4, 2 + height // 3),
        )
        pen.rectangle(box, tuple(drawn.randrange(256) for _ in range(3)))
    encoded = io.BytesIO()
    image.convert(mode).save(encoded, format=format, **save)
    return encoded.getvalue()


def image(name, **options):
    """A cell of the Hub's image type."""
    return {"bytes": picture(name, **options), "path": f"{name}.png"}


def write_parquet(path, rows, **columns):
    """A Parquet file with these columns, and the rows split over two row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, pa.schema(list(columns.items())))
    pq.write_table(table, path, row_group_size=max(len(rows) // 2, 1))


def geometry3k(folder):
    write_parquet(
        folder / "hiyouga/geometry3k/data/train-00000-of-00001.parquet",
        [
            {
                "images": [image(f"geometry {i}")],
                "problem": f"<image>Find $m \\angle {i}$.",
                "answer": str(10 + i),
                "id": i,
                "choices": ["1", "2", "3", "4"],
                "ground_truth": "A",
            }
            for i in range(ENOUGH)
        ]
        + [
            {
                "images": [image("geometry 0")],
                "problem": "<image>Find $m \\angle 0$.",
                "answer": "10",
            },
            {"images": [image("no problem")], "problem": None, "answer": "1"},
            {"images": [BROKEN], "problem": "<image>Find y.", "answer": "1"},
            {"images": [], "problem": "Find 1 + 1.", "answer": "2"},
            {"images": [image("a"), image("b")], "problem": "<image><image>?", "answer": "2"},
        ],
        images=pa.list_(IMAGE),
        problem=pa.string(),
        answer=pa.string(),
        id=pa.int64(),
        choices=STRINGS,
        ground_truth=pa.string(),
    )


def mmr1(folder):
    write_parquet(
        folder / "MMR1/MMR1-Math-RL-Data-v0/data/train-00000-of-00001.parquet",
        [
            {
                "images": [image(f"mmr1 {i}", format="JPEG")],
                "problem": f"<image>What is side {i}?\nA. 3\nB. 4"
                if i % 2
                else f"<image>Side {i}?",
                "answer": "B" if i % 2 else f"\\frac{{{i + 1}}}{{7}}",
            }
            for i in range(ENOUGH)
        ]
        + [
            {"images": [image("geometry 1")], "problem": "<image>Find the angle.", "answer": "11"},
            {"images": [image("mmr1 0", format="JPEG")], "problem": "<image>Why?", "answer": None},
            {"images": [image("tiny", size=(20, 90))], "problem": "<image>How?", "answer": "7"},
        ],
        images=pa.list_(IMAGE),
        problem=pa.string(),
        answer=pa.string(),
    )


def mmk12(folder):
    for shard in range(3):
        write_parquet(
            folder / f"FanqingM/MMK12/data/train-0000{shard}-of-00003.parquet",
            [
                {
                    "id": f"id-{shard}-{i}",
                    "question": f"As shown in the figure <image>, find x in case {shard}-{i}.",
                    "answer": f"$x={i}$",
                    "subject": "math",
                    "image": image(f"mmk12 {shard} {i}"),
                }
                for i in range(ENOUGH)
            ]
            + [{"id": "text", "question": "1 + 1?", "answer": "2", "image": None}],
            id=pa.string(),
            question=pa.string(),
            answer=pa.string(),
            subject=pa.string(),
            image=IMAGE,
        )


def pdf(name, pages=1):
    sheets = [Image.open(io.BytesIO(picture(f"{name} {i}", (620, 877)))) for i in range(pages)]
    encoded = io.BytesIO()
    sheets[0].save(encoded, format="PDF", save_all=True, append_images=sheets[1:])
    return encoded.getvalue()


def tat_dqa(folder):
    folder = folder / "next-tat/TAT-DQA"
    folder.mkdir(parents=True)

    def entry(i):
        asked = [
            ("span", ["$1,452.4"], "million"),
            ("arithmetic", 12.5, "percent"),
            ("arithmetic", -3.456, "thousand"),
            ("multi-span", ["a", "b"], ""),
            ("count", 2, ""),
            ("span", [], ""),
        ]
        return {
            "doc": {"uid": f"doc{i}", "page": 1, "source": "report_2019.pdf"},
            "questions": [
                {
                    "uid": f"q{i}-{n}",
                    "order": n + 1,
                    "question": f"What is item {n} of report {i}?",
                    "answer": answer,
                    "derivation": "",
                    "answer_type": kind,
                    "scale": scale,
                    "req_comparison": False,
                    "facts": [],
                    "block_mapping": [],
                }
                for n, (kind, answer, scale) in enumerate(asked)
            ],
        }

    entries = [entry(i) for i in range(11)] + [entry(1)]
    (folder / "tatdqa_dataset_train.json").write_text(json.dumps(entries))
    with zipfile.ZipFile(folder / "tatdqa_docs_train.zip", "w") as archive:
        for i in range(10):  # of the eleventh there is none
            pages = 2 if i == 0 else 1
            files = [(f"doc{i}.pdf", pdf(f"doc{i}", pages)), (f"doc{i}.json", b'{"pages": []}')]
            files += [(f"doc{i}_{n + 1}.png", picture(f"doc{i} {n}")) for n in range(pages)]
            if i == 9:
                files[0] = ("doc9.pdf", b"%PDF-1.4 cut")
            for name, data in files if i % 2 else files[::-1]:
                archive.writestr(f"train/{name}", data)


def small_table(city="Pécs"):
    return {"header": ["City", "Price"], "rows": [[city, "$1,234"]] * 3, "name": "csv/1.csv"}


def wtq(folder):
    write_parquet(
        folder / "stanfordnlp/wikitablequestions/random-split-1/train/0000.parquet",
        [
            {
                "id": f"nt-{i}",
                "question": f"which city is number {i}?",
                "answers": ["Győr"] if i % 5 else ["Győr", "Pécs"],
                "table": {
                    "header": ["No.", "City", "Population"],
                    "rows": [[str(n + i), "Győr", f"{n},129"] for n in range(4)],
                    "name": f"csv/201-csv/{i}.csv",
                },
            }
            for i in range(ENOUGH)
        ]
        + [
            {"id": "a", "question": "how much?", "answers": ["$1,234"], "table": small_table()},
            {"id": "b", "question": "how many?", "answers": ["2"], "table": small_table()},
            {"id": "b", "question": "how many?", "answers": ["2"], "table": small_table()},
            {"id": "c", "question": "which?", "answers": [], "table": small_table()},
            {"id": "d", "question": None, "answers": ["Pécs"], "table": small_table()},
            {"id": "e", "question": "who?", "answers": ["Ann"], "table": None},
            {"id": "f", "question": "where?", "answers": ["here"], "table": small_table("東京")},
            {"id": "g", "question": "?", "answers": ["x"], "table": small_table() | {"header": []}},
        ],
        id=pa.string(),
        question=pa.string(),
        answers=STRINGS,
        table=pa.struct([("header", STRINGS), ("rows", pa.list_(STRINGS)), ("name", pa.string())]),
    )


def tabfact(folder):
    write_parquet(
        folder / "wenhu/tab_fact/tab_fact/train/0000.parquet",
        [
            {
                "id": i,
                "table_id": f"2-1570274-{i}.html.csv",
                "table_text": f"year#team#points\n{1960 + i}#lotus#{i}\n{1961 + i}#brm#9\n",
                "table_caption": f"driver {i}",
                "statement": f"lotus had {i} points in {1960 + i}",
                "label": i % 2,
            }
            for i in range(ENOUGH)
        ]
        + [
            {"table_text": text, "table_caption": caption, "statement": statement, "label": label}
            for text, caption, statement, label in (
                ("a#b\n1#2", None, "a is 1", 1),
                ("a#b\n1#2", None, "a is 2", 0),  # about the same table
                ("a#b\n1#2#3", "", "ragged", 1),
                ("a#b\n3#4", "", None, 1),
                ("a#b\n5#6", "", "of no label", None),
                (None, "", "of no table", 1),
                ("a#b", "", "without rows", 1),
            )
        ],
        id=pa.int32(),
        table_id=pa.string(),
        table_text=pa.string(),
        table_caption=pa.string(),
        statement=pa.string(),
        label=pa.int64(),
    )


def the_cauldron(folder):
    texts = pa.list_(
        pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
    )
    question = (
        "Question: How many actions are in diagram {}?\nChoices:\nA. 6.\nB. 4.\nC. 8.\nD. 7.\n"
    )
    write_parquet(
        folder / "HuggingFaceM4/the_cauldron/tqa/train-00000-of-00001-c15be8aed9c93862.parquet",
        [
            {
                "images": [image(f"tqa {i}")],
                "texts": [
                    {
                        "user": question.format(f"{i}.{n}") + "Answer with the letter.",
                        "assistant": "Answer: " + "ABCD"[(i + n) % 4],
                        "source": "TQA",
                    }
                    for n in range(6 if i == 0 else 3)
                ],
            }
            for i in range(ENOUGH // 5)
        ]
        + [
            {"images": [image("tqa none")], "texts": []},
            {
                "images": [image("tqa odd")],
                "texts": [
                    {"user": question.format("odd"), "assistant": "Answer: seven", "source": "TQA"},
                    {"user": None, "assistant": "Answer: A", "source": "TQA"},
                ],
            },
        ],
        images=pa.list_(IMAGE),
        texts=texts,
    )
    for shard in range(4):
        write_parquet(
            folder
            / f"HuggingFaceM4/the_cauldron/plotqa/train-0000{shard}-of-00004-ab{shard}.parquet",
            [
                {
                    "images": [image(f"plotqa {shard} {i}")],
                    "texts": [
                        {
                            "user": f"What is the value in {2000 + n}?\nProvide a short answer.",
                            "assistant": f"{n + i / 7:.2f}.",
                            "source": "PlotQA",
                        }
                        for n in range(5)
                    ]
                    + [
                        {"user": "Is it a bar chart?", "assistant": "Yes.", "source": "PlotQA"},
                        {"user": "Be brief.", "assistant": "7.", "source": "PlotQA"},
                        {"user": "What is it?", "assistant": None, "source": "PlotQA"},
                    ],
                }
                for i in range(ENOUGH)
            ],
            images=pa.list_(IMAGE),
            texts=texts,
        )


def chart_table(i):
    return {
        "columns": [
            {"name": "Country", "data_type": "categorical", "role": "x", "unit": "none"},
            {"name": "Share", "data_type": "numerical", "role": "y", "unit": "%"},
        ],
        "data": [
            {"Country": country, "Share": share}
            for country, share in (("Chile", 12.5), ("Ghana", 30), ("Nepal", i + 40.25))
        ],
    }


def add_member(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def chartgalaxy(folder):
    folder = folder / "ChartGalaxy/ChartGalaxy/synthetic"
    folder.mkdir(parents=True)
    for shard in range(3):
        with tarfile.open(folder / f"dataset_{shard:03d}.tar", "w") as archive:
            for i in range(ENOUGH):
                stem = f"./{i:08d}"
                for name, data in (
                    (f"{stem}.png", picture(f"chart {shard} {i}")),
                    (f"{stem}.data.json", json.dumps(chart_table(i)).encode()),
                    (f"{stem}.info.json", b'{"chart_type": "bar"}'),
                ):
                    add_member(archive, name, data)
            add_member(archive, "./no_table.png", picture("no table"))
            add_member(archive, "./no_picture.data.json", json.dumps(chart_table(0)).encode())
            add_member(archive, "./broken.png", picture("broken"))
            add_member(archive, "./broken.data.json", b"{")
            add_member(archive, "./bare.png", picture("bare"))
            add_member(archive, "./bare.data.json", b"{}")


def iam_line(folder):
    write_parquet(
        folder / "Teklia/IAM-line/data/train.parquet",
        [{"image": image(f"iam {i}", mode="L"), "text": f"a line , {i}"} for i in range(ENOUGH)]
        + [
            {"image": image("iam long", size=(9000, 40)), "text": "a long line"},
            {"image": image("iam empty"), "text": " "},
            {"image": image("iam none"), "text": None},
        ],
        image=IMAGE,
        text=pa.string(),
    )


def ocr_vqa(folder):
    for shard in range(4):
        write_parquet(
            folder / f"howard-hou/OCR-VQA/data/train-0000{shard}-of-00016-53a{shard}.parquet",
            [
                {
                    "image": image(f"book {shard} {i}", format="JPEG"),
                    "image_id": f"{shard}-{i}",
                    "questions": ["Who wrote this book?", "What type of book is this?"],
                    "answers": [f"Ann Author{i}", "Travel"],
                    "title": f"Title {i}",
                    "authorName": f"Ann Author{i}",
                    "genre": "Travel",
                }
                for i in range(ENOUGH)
            ]
            + [
                {
                    "image": image(f"odd book {shard}"),
                    "image_id": f"{shard}-odd",
                    "questions": ["Who?", "What?"],
                    "answers": ["Ann"],
                },
                {
                    "image": image(f"both {shard}"),
                    "image_id": f"{shard}-both",
                    "questions": ["Who wrote it?", "What is its title?", None],
                    "answers": ["Ann", "A Walk", "A Walk"],
                    "title": "A Walk",
                    "authorName": "Ann",
                },
            ],
            image=IMAGE,
            image_id=pa.string(),
            questions=STRINGS,
            answers=STRINGS,
            title=pa.string(),
            authorName=pa.string(),
            genre=pa.string(),
        )


def docvqa(folder):
    write_parquet(
        folder / "HuggingFaceM4/DocumentVQA/data/train-00000-of-00038.parquet",
        [
            {
                "questionId": str(i),
                "question": f"What is the date of letter {i}?",
                "image": image(f"letter {i}", size=(1400, 1000), mode="L"),
                "docId": i,
                "answers": [f"{i} May 1998", f"{i} may 1998"],
            }
            for i in range(ENOUGH // 3 - 3)
        ]
        + [
            {
                "questionId": f"same {i}",
                "question": f"What stands in line {i}?",
                "image": image("one letter", compress_level=i),  # other bytes, the same picture
                "answers": ["Dear Sir"],
            }
            for i in range(4)
        ]
        + [{"questionId": "none", "question": "?", "image": image("none"), "answers": None}],
        questionId=pa.string(),
        question=pa.string(),
        image=IMAGE,
        docId=pa.int64(),
        answers=STRINGS,
    )


def textvqa(folder):
    write_parquet(
        folder / "lmms-lab/textvqa/data/train-00000-of-00020.parquet",
        [
            {
                "image_id": f"{i:x}",
                "question_id": i,
                "question": f"what does sign {i} say?",
                "image": image(f"sign {i}", format="JPEG"),
                "answers": [f"stop {i}"] * 6 + ["stop"] * 4,
            }
            for i in range(ENOUGH)
        ]
        + [
            {"question": "what?", "image": image("unclear"), "answers": list("abcdefghij")},
            {"question": "what?", "image": image("unasked"), "answers": None},
            {"question": None, "image": image("unasked"), "answers": ["stop"] * 10},
            {"question": "what?", "image": BROKEN, "answers": ["stop"] * 10},
            {
                "question": "which word?",
                "image": image("sign 0", format="JPEG"),
                "answers": ["stop 0"] * 10,
            },
        ],
        image_id=pa.string(),
        question_id=pa.int32(),
        question=pa.string(),
        image=IMAGE,
        answers=STRINGS,
    )


def evaluation_sets(folder):
    def one(path, question="question", column="image", type=IMAGE, **more):
        name = path.split("/")[1]
        cell = image(f"evaluation {name}")
        write_parquet(
            folder / path,
            [
                {
                    question: f"How many marbles are left in the jar of {name} after the game?",
                    column: cell["bytes"] if type == pa.binary() else cell,
                }
            ],
            **{question: pa.string(), column: type, **more},
        )

    one("AI4Math/MathVista/data/testmini-00000-of-00001-7256.parquet", column="decoded_image")
    one("MathLLMs/MathVision/data/test-00000-of-00001-3532.parquet", column="decoded_image")
    one("AI4Math/MathVerse/testmini.parquet")
    one("We-Math/We-Math/data/testmini-00000-of-00001-adbf.parquet", column="image_path")
    one("HuggingFaceM4/ChartQA/data/test-00000-of-00001-e2cd.parquet", question="query")
    one("princeton-nlp/CharXiv/val.parquet", question="reasoning_q")
    one("princeton-nlp/CharXiv/test.parquet", question="reasoning_q")
    one("echo840/OCRBench/data/test-00000-of-00001.parquet")
    one("lmms-lab/MME/data/test-00000-of-00004.parquet")
    one("Lin-Chen/MMStar/mmstar.parquet", type=pa.binary())
    ocr_reasoning = folder / "mx262/OCR-Reasoning"
    ocr_reasoning.mkdir(parents=True)
    (ocr_reasoning / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n")
    asked = [{"id": 1, "question": "How many marbles did the receipt in the picture list in all?"}]
    (ocr_reasoning / "dataset.json").write_text(json.dumps(asked))
    with zipfile.ZipFile(ocr_reasoning / "images.zip", "w") as archive:
        archive.writestr("images/1.jpg", picture("evaluation receipt", format="JPEG"))
        archive.writestr("images/2.jpg", b"no picture")
        archive.writestr("__MACOSX/images/._1.jpg", b"what macOS adds")


@pytest.fixture(scope="session")
def hub_copies(tmp_path_factory):
    """A folder for ``--source-dir``: every source and every evaluation set."""
    folder = tmp_path_factory.mktemp("hub")
    for write in (geometry3k, mmr1, mmk12, tat_dqa, wtq, tabfact, the_cauldron, chartgalaxy,
                  iam_line, ocr_vqa, docvqa, textvqa, evaluation_sets):  # fmt: skip
        write(folder)
    return folder


@pytest.fixture(scope="session")
def make():
    """The functions that make single pictures, image cells and Parquet files."""
    return SimpleNamespace(
        picture=picture,
        image=image,
        parquet=write_parquet,
        pdf=pdf,
        tat_dqa=tat_dqa,
        chart_table=chart_table,
        add_member=add_member,
        IMAGE=IMAGE,
        STRINGS=STRINGS,
    )
