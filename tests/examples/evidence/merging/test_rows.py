"""Rows come back as they were written, and are known by what was merged how."""

from examples.evidence.merging.rows import Row, Set, read, write
from examples.evidence.merging.skills import as_trained, draw_skills


def test_rows_come_back_as_they_were_written(tmp_path):
    written = [
        Row(3, "ties", {"scale": 0.5}, [0.5, 1.0, 0.25], [8.0, 9.5, 10.0]),
        Row(3, "experts", {}, [1.0, 1.0, 1.0], [8.0, 8.0, 8.0]),
    ]
    write(tmp_path / "rows.jsonl", written)
    assert list(read(tmp_path / "rows.jsonl").values()) == written
    assert read(tmp_path / "none.jsonl") == {}


def test_a_row_is_known_by_its_experts_method_and_settings():
    one = Row(3, "amm", {"alpha": "uniform", "penalty_weight": 0.0})
    assert one.key == Row(3, "amm", {"penalty_weight": 0.0, "alpha": "uniform"}, [1.0]).key
    others = [Row(5, one.method, one.parameters), Row(3, "wudi", one.parameters), Row(3, "amm")]
    assert len({one.key, *(other.key for other in others)}) == 4


def test_a_set_names_its_file_and_draws_its_skills(tmp_path):
    bench = Set("tune", "places", "lora", 2)
    assert bench.file(tmp_path) == tmp_path / "tune_places_lora_2.jsonl"
    assert bench.skills() == draw_skills("places", 2)
    assert Set("report", "rl", "lipo", 10).skills() == as_trained()
