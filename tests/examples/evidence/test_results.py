"""What a trial leaves is read as it was written, and is joined with the steps of its questions."""

import json

import numpy as np

from examples.evidence.results import Result, answers
from examples.quickstart.data import write_splits
from examples.quickstart.tasks import TASKS
from tests.examples.evidence.results import result


def test_a_result_is_read_as_it_was_written(tmp_path):
    written = result("report", "lipo", 0.1, seed=3, accuracy=7 / 12)
    written.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report_lipo_0.1_3.json"]
    found = written.trial.read(tmp_path)
    assert found.trial == written.trial
    assert found.settings == written.settings and found.curve == written.curve
    for name in ("steps", "correct", "tokens"):
        assert np.array_equal(getattr(found, name), getattr(written, name))
    content = json.loads(written.trial.file(tmp_path).read_text())
    assert {"verl", "ray", "torch"} <= content["versions"].keys()
    assert Result.read(written.trial.file(tmp_path)).trial.name == "report_lipo_0.1_3"


def test_answers_of_all_tasks_stand_beside_their_questions_steps(tmp_path):
    written = write_splits(tmp_path / "data", train=1, val=6, seed=4)
    (tmp_path / "model").mkdir()
    for number, task in enumerate(TASKS):
        rows = [{"row": k, "accuracy": float(k % 2), "tokens": 10 * number + k} for k in range(6)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "model" / f"{task}.jsonl").write_text(lines)
    steps, correct, tokens = answers(tmp_path / "model", tmp_path / "data")
    assert tokens.tolist() == [*range(6), *range(10, 16), *range(20, 26)]
    assert correct.tolist() == [False, True] * 9
    import pyarrow.parquet as pq

    for k, task in enumerate(TASKS):
        asked = pq.read_table(written[task]["val"]).to_pylist()
        assert steps[6 * k : 6 * k + 6].tolist() == [row["extra_info"]["steps"] for row in asked]
