"""The real command on small copies of all datasets."""

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.quickstart import base_model
from examples.tiny_r1v.data import build, cli, evaluation, images, parts
from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.fetch import Repository
from examples.tiny_r1v.data.manifest import Settings
from examples.tiny_r1v.data.parts import Kept
from examples.tiny_r1v.data.schema import EXPERTS, SCHEMA
from examples.tiny_r1v.data.sources import DEFAULT_COUNT, SOURCES
from lipo_verl.cpu import torch_extensions

REPOSITORY = Path(__file__).parents[4]
QUICKSTART_MODEL = Path(base_model.__file__).with_name("base_model")


def run(*arguments):
    return cli.main(list(map(str, arguments)))


def link(repo, copies, folder):
    (folder / repo).parent.mkdir(parents=True, exist_ok=True)
    (folder / repo).symlink_to(copies / repo)


def rows(folder, split="train"):
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def ids(folder, split="train"):
    return [row["extra_info"]["id"] for row in rows(folder, split)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, hub_copies):
    """All experts and the mixture, 60 training and 8 validation rows each."""
    pytest.importorskip("pypdfium2")
    output = tmp_path_factory.mktemp("made")
    options = ("--output", output, "--count", 60, "--val", 8, "--source-dir", hub_copies)
    assert run("mixture", *options, "--workers", 2) == 0
    return output


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_gets_what_was_asked_for_from_every_source(made, expert):
    assert len(rows(made / expert)) == 60
    assert len(rows(made / expert, "val")) == 8
    sources = {row["extra_info"]["source"] for row in rows(made / expert)}
    assert sources == {source.name for source in SOURCES[expert]}


@pytest.mark.parametrize("expert", EXPERTS)
def test_rows_are_numbered_and_named_and_their_pictures_open(made, expert):
    for split in ("train", "val"):
        for number, row in enumerate(rows(made / expert, split)):
            info = row["extra_info"]
            assert (info["split"], info["index"]) == (split, number)
            assert (row["data_source"], row["ability"]) == (f"tiny_r1v/{expert}", expert)
            assert row["problem"].count("<image>") == len(row["images"]) == 1
            Image.open(io.BytesIO(row["images"][0]["bytes"])).load()


@pytest.mark.parametrize("expert", EXPERTS)
def test_no_picture_is_in_both_splits_and_no_row_twice(made, expert):
    train, val = (
        {row["images"][0]["bytes"] for row in rows(made / expert, split)}
        for split in ("train", "val")
    )
    assert not train & val
    everything = ids(made / expert) + ids(made / expert, "val")
    assert len(set(everything)) == len(everything)


def test_the_mixture_is_all_experts_shuffled(made):
    mixed = ids(made / "mixture")
    assert Counter(mixed) == Counter(id for expert in EXPERTS for id in ids(made / expert))
    first = Counter(row["ability"] for row in rows(made / "mixture")[:60])
    assert min(first[expert] for expert in EXPERTS) > 8


def test_the_manifest_accounts_for_every_row_that_was_read(made):
    manifest = json.loads((made / "structure/manifest.json").read_text())
    by_name = {source["name"]: source for source in manifest["sources"]}
    assert by_name["wtq"]["dropped"]["several answers"] == 12
    tat_dqa = by_name["tat_dqa"]
    assert tat_dqa["read"] == 72 and tat_dqa["dropped"]["several answers"] == 12
    assert tat_dqa["license"] == "CC-BY-4.0"
    assert set(tat_dqa["files"]) == {"tatdqa_dataset_train.json", "tatdqa_docs_train.zip"}
    assert sum(source["kept"] for source in manifest["sources"]) == 68
    assert manifest["settings"]["seed"] == 0
    assert {entry["name"] for entry in manifest["evaluation_sets"]} == {
        "MathVista", "MathVision", "MathVerse", "WeMath", "ChartQA", "CharXiv", "OCRBench",
        "OCR-Reasoning", "MME", "MMStar",
    }  # fmt: skip
    assert all(entry["questions"] and entry["pictures"] for entry in manifest["evaluation_sets"])
    unreadable = {entry["name"]: entry["unreadable"] for entry in manifest["evaluation_sets"]}
    assert unreadable == dict.fromkeys(unreadable, 0) | {"OCR-Reasoning": 1}


def test_a_source_that_runs_short_is_made_up_for(made):
    manifest = json.loads((made / "ocr/manifest.json").read_text())
    docvqa, textvqa = manifest["sources"][2:]
    assert (docvqa["kept"], docvqa["share"]) == (19, 21)
    assert textvqa["kept"] == textvqa["share"] + 2


def test_the_same_seed_draws_the_same_whatever_the_threads_and_the_order(
    made, hub_copies, tmp_path, monkeypatch
):
    options = ("--count", 60, "--val", 8, "--source-dir", hub_copies)
    choose = evaluation.fetch.__globals__["_choose"]
    monkeypatch.setitem(
        evaluation.fetch.__globals__, "_choose", lambda *a: sorted(choose(*a), reverse=True)
    )
    monkeypatch.setattr(
        parts, "map_ahead", lambda function, items, workers: map(function, list(items)[::-1])
    )
    assert run("math", "--output", tmp_path, *options, "--workers", 1) == 0
    for split in ("train", "val"):
        assert rows(tmp_path / "math", split) == rows(made / "math", split)


def test_another_seed_draws_others(made, hub_copies, tmp_path):
    options = ("--count", 60, "--val", 8, "--source-dir", hub_copies, "--seed", 1)
    assert run("math", "--output", tmp_path, *options) == 0
    assert set(ids(tmp_path / "math")) != set(ids(made / "math"))


def test_an_interrupted_run_goes_on_with_the_source_where_it_stopped(
    hub_copies, tmp_path, monkeypatch
):
    options = ("--output", tmp_path, "--count", 30, "--val", 4, "--source-dir", hub_copies)
    drawn, make_part = [], build.make_part

    def stop_at_the_third(path, task, *rest):
        if task.source.name == "docvqa" and len(drawn) < 3:
            raise KeyboardInterrupt
        return make_part(path, task, *rest)

    def note(self, example):
        drawn.append(self.source.name)
        return place(self, example)

    place = parts.Task.place
    monkeypatch.setattr(build, "make_part", stop_at_the_third)
    assert run("ocr", *options) == 130
    assert not (tmp_path / "ocr/train.parquet").exists()
    monkeypatch.setattr(build, "make_part", make_part)
    monkeypatch.setattr(parts.Task, "place", note)
    assert run("ocr", *options) == 0
    assert set(drawn) == {"docvqa", "textvqa"}
    drawn.clear()
    assert run("ocr", *options) == 0  # complete: nothing is done
    assert not drawn
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_folder_of_other_settings_is_not_overwritten(made, hub_copies, capsys):
    options = ("--output", made, "--count", 50, "--val", 8, "--source-dir", hub_copies)
    before = (made / "math/train.parquet").stat().st_mtime_ns
    assert run("math", *options) == 1
    assert "was made with count=60. Give another --output" in capsys.readouterr().err
    assert (made / "math/train.parquet").stat().st_mtime_ns == before


def test_too_few_rows_are_an_error_that_says_what_became_of_them(hub_copies, tmp_path, capsys):
    options = ("--output", tmp_path, "--count", 5000, "--source-dir", hub_copies)
    permitted = [word for source in SOURCES["ocr"] for word in ("--allow-short", source.name)]
    assert run("ocr", *options, *permitted) == 1
    error = capsys.readouterr().err
    assert "rows too few for 5000 training and 300 validation rows" in error
    assert "docvqa: 22 questions read, 19 of" in error
    assert "left out: 2 another question about the same picture, 1 no answer" in error


def test_a_source_that_gives_too_little_of_its_share_stops_the_build_until_it_is_permitted(
    hub_copies, tmp_path, capsys
):
    options = ("--output", tmp_path, "--count", 98, "--val", 2, "--source-dir", hub_copies)
    assert run("ocr", *options) == 1
    error = capsys.readouterr().err
    assert "docvqa (HuggingFaceM4/DocumentVQA) gives 19 rows of its share of 30, under 80%" in error
    assert "22 questions read" in error and "2 another question about the same picture" in error
    assert "--allow-short docvqa" in error
    assert not (tmp_path / "ocr/train.parquet").exists()
    assert run("ocr", *options, "--allow-short", "docvqa") == 0
    sources = json.loads((tmp_path / "ocr/manifest.json").read_text())["sources"]
    assert [(source["share"], source["kept"]) for source in sources] == [
        (20, 20),
        (20, 20),
        (30, 19),
        (30, 41),
    ]


def test_the_six_of_the_structured_expert_give_equal_shares(made):
    sources = json.loads((made / "structure/manifest.json").read_text())["sources"]
    assert {source["share"] for source in sources} <= {11, 12}
    assert all(source["kept"] == source["share"] for source in sources)


def test_a_missing_column_is_named_with_its_file(make, hub_copies, tmp_path, capsys, monkeypatch):
    path = tmp_path / "hub/hiyouga/geometry3k/data/train-0.parquet"
    for source in SOURCES["math"][1:]:
        link(source.repository.repo, hub_copies, tmp_path / "hub")
    for entry in evaluation.EVALUATION_SETS:
        link(entry.repository.repo, hub_copies, tmp_path / "hub")
    row = {"images": [make.image("a")], "problem": "?", "anwser": "1"}
    make.parquet(path, [row], images=pa.list_(make.IMAGE), problem=pa.string(), anwser=pa.string())
    monkeypatch.setattr(build, "load_index", lambda *_: (None, []))
    options = ("--output", tmp_path, "--source-dir", tmp_path / "hub")
    assert run("math", *options) == 1
    error = capsys.readouterr().err
    assert f"{path} has no column answer. Did you mean anwser?" in error


def test_questions_and_pictures_of_the_evaluation_are_left_out(
    make, hub_copies, tmp_path, monkeypatch
):
    """Rows 0 and 1 repeat a picture and a question of MMStar, row 2 repeats row 3."""
    known = "How many marbles are left in the jar of MMStar after the game?"
    cells = [make.image(name) for name in ("evaluation MMStar", "1", "2", "2", "4", "5", "6", "7")]
    texts = ["Find x.", known, "Find y.", "Find y.", *(f"Find z{i}." for i in range(4))]
    path = tmp_path / "hub/hiyouga/geometry3k/data/train-0.parquet"
    make.parquet(
        path,
        [{"images": [c], "problem": t, "answer": "1"} for c, t in zip(cells, texts, strict=True)],
        images=pa.list_(make.IMAGE),
        problem=pa.string(),
        answer=pa.string(),
    )
    for entry in evaluation.EVALUATION_SETS:
        link(entry.repository.repo, hub_copies, tmp_path / "hub")
    monkeypatch.setitem(build.SOURCES, "math", SOURCES["math"][:1])
    monkeypatch.setitem(build.DEFAULT_COUNT, "math", SOURCES["math"][0].share)
    options = ("--output", tmp_path, "--source-dir", tmp_path / "hub", "--count", 4, "--val", 1)
    assert run("math", *options) == 0
    kept = {
        int(id.rpartition(":")[2])
        for split in ("train", "val")
        for id in ids(tmp_path / "math", split)
    }
    assert kept >= {4, 5, 6, 7}
    assert len(kept & {2, 3}) == 1
    assert not kept & {0, 1}
    (source,) = json.loads((tmp_path / "math/manifest.json").read_text())["sources"]
    assert source["dropped"]["question of MMStar"] == source["dropped"]["picture of MMStar"] == 1


def test_an_evaluation_set_without_questions_stops_the_run(hub_copies, tmp_path):
    path = tmp_path / "org/empty"
    path.mkdir(parents=True)
    (path / "images.zip").write_bytes((hub_copies / "mx262/OCR-Reasoning/images.zip").read_bytes())
    entry = evaluation.EvaluationSet("Empty", Repository("org/empty", ("*",)))
    fetched = evaluation.fetch(entry.repository, 0, tmp_path)
    with pytest.raises(DataError, match=r"No question was found in org/empty \(images.zip\)"):
        evaluation._read(entry, fetched, 1)


def test_an_evaluation_picture_is_known_with_transparency_and_rotation(tmp_path):
    """As training pictures are compared: turned upright, and on white."""
    drawing = Image.new("RGBA", (80, 40), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (10, 5, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    raw = io.BytesIO()
    drawing.save(raw, format="PNG", exif=exif)
    assert evaluation._hashed(raw.getvalue()) == images.prepare(raw.getvalue()).bits.hex()
    assert int(evaluation._hashed(raw.getvalue()), 16).bit_count() > 16


def test_an_archive_of_evaluation_pictures_that_is_not_read_stops_the_run(tmp_path):
    (tmp_path / "org/packed").mkdir(parents=True)
    (tmp_path / "org/packed/images.tar.gz").write_bytes(b"")
    entry = evaluation.EvaluationSet("Packed", Repository("org/packed", ("*",)))
    fetched = evaluation.fetch(entry.repository, 0, tmp_path)
    with pytest.raises(DataError, match=r"images.tar.gz: .gz archives are not read here"):
        evaluation._read(entry, fetched, 1)


def test_all_missing_copies_are_named_before_anything_is_read(hub_copies, tmp_path, capsys):
    link("hiyouga/geometry3k", hub_copies, tmp_path / "hub")
    options = ("--output", tmp_path / "out", "--source-dir", tmp_path / "hub")
    assert run("math", *options) == 1
    error = capsys.readouterr().err
    missing = ["MMR1/MMR1-Math-RL-Data-v0", "FanqingM/MMK12", "Lin-Chen/MMStar"]
    assert all(f"has no folder {repo}" in error for repo in missing)
    assert "geometry3k" not in error and "--print-downloads" in error
    assert not (tmp_path / "out").exists()


def test_what_is_finished_does_without_its_copies(made, tmp_path, capsys):
    for expert in ("structure", "ocr"):
        (tmp_path / expert).symlink_to(made / expert)
    options = ("--count", 60, "--val", 8, "--source-dir", tmp_path)
    assert run("mixture", "--output", made, *options) == 0
    assert run("mixture", "--output", tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert "has no folder hiyouga/geometry3k" in error
    assert "docvqa" not in error.lower()


def test_one_command_prints_all_downloads_of_the_recipe(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("mixture", "--print-downloads", "DIR") == 0
    script = capsys.readouterr().out
    assert script.count("hf download") == 13 + len(evaluation.EVALUATION_SETS) + 1
    for source in (source for sources in SOURCES.values() for source in sources):
        assert f"hf download {source.repository.repo} " in script
    assert "hf download Qwen/Qwen2.5-VL-3B-Instruct --repo-type model" in script


@pytest.mark.parametrize(
    "wrong, said",
    [
        (("--allow-short", "geometry3"), "Did you mean geometry3k? Its sources: geometry3k, mmr1"),
        (("--allow-short", "tqa"), "tqa: no source of math"),
        (("--count", "0"), "0 is no number from 1 on"),
        (("--source-dir", "nowhere"), "nowhere is no folder"),
        (("--seed", "x"), "invalid int value"),
    ],
)
def test_impossible_arguments_are_explained(wrong, said, capsys):
    with pytest.raises(SystemExit):
        run("math", "--output", "out", *wrong)
    assert said in capsys.readouterr().err


def test_the_counts_are_the_papers_and_shared_out_exactly():
    assert DEFAULT_COUNT == {"math": 15_000, "structure": 15_000, "ocr": 10_000}
    for expert, sources in SOURCES.items():
        for count in (1, 7, 60, 15_300):
            assert sum(build.shared_out(sources, DEFAULT_COUNT[expert], count)) == count


def test_validation_gets_whole_pictures_and_training_no_more_than_asked():
    drawn = [Kept(f"{picture}{i}", "", picture) for picture in "abcdefgh" for i in range(3)]
    split = build.split_rows(drawn, Settings(count=15, val=7, seed=0))
    counts = Counter(split.values())
    assert counts == {"train": 15, "val": 6}
    in_val = {id[0] for id, name in split.items() if name == "val"}
    assert not in_val & {id[0] for id, name in split.items() if name == "train"}


def test_the_command_runs_as_a_module(made, hub_copies):
    command = [sys.executable, "-m", "examples.tiny_r1v.data", "math", "--output", str(made)]
    options = ["--count", "60", "--val", "8", "--source-dir", str(hub_copies)]
    done = subprocess.run(
        command + options, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert f"{made / 'math/train.parquet'}: 60 rows" in done.stdout
    assert "is complete" in done.stderr


@pytest.mark.parametrize("expert", [*EXPERTS, "mixture"])
def test_verl_reads_every_row_and_filters_prompts_by_their_length(made, expert, tmp_path):
    torch_extensions.install()  # before verl or transformers imports torchvision
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    pytest.importorskip("qwen_vl_utils")
    from omegaconf import OmegaConf
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(QUICKSTART_MODEL)

    def dataset(length):
        settings = {
            "max_prompt_length": length,
            "filter_overlong_prompts": True,
            "filter_overlong_prompts_workers": 1,
            "cache_dir": str(tmp_path),
        }
        path = str(made / expert / "val.parquet")
        return rl_dataset.RLHFDataset(
            path, processor.tokenizer, OmegaConf.create(settings), processor
        )

    whole = dataset(2048)
    assert len(whole) == len(rows(made / expert, "val"))
    assert len(dataset(8)) == 0
    row = whole[0]
    picture, text = row["raw_prompt"][0]["content"]
    assert (picture["type"], text["type"]) == ("image", "text")
    assert row["reward_model"]["ground_truth"] == row["answer"]
    images, _, _ = whole._process_multi_modal_info(row["raw_prompt"], 14, whole.config)
    assert images[0].mode == "RGB"


def test_the_files_have_the_schema_that_is_written_down(made):
    for expert in (*EXPERTS, "mixture"):
        assert pq.read_schema(made / expert / "train.parquet").equals(SCHEMA)
