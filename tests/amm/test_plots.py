"""Names in pictures and tables, and that pictures can be drawn from odd numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amm.plots import (
    draw_cosines,
    draw_losses,
    draw_norms,
    draw_task_vectors,
    short_kinds,
    short_paths,
)
from amm.show import duration

PARTS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("paths", "short"),
    [
        (["runs/math/global_step_1/actor", "runs/ocr/global_step_1/actor"], ["math", "ocr"]),
        (["a/run/1", "a/run/2"], ["1", "2"]),
        (["x/a/1", "y/a/2", "x/b/2"], ["a/1", "a/2", "b/2"]),
        (["a/math"], ["math"]),
        (["math", "math"], ["math", "math"]),
        (["/"], ["/"]),
    ],
)
def test_paths_are_shortened_to_what_tells_them_apart(paths, short):
    assert short_paths(paths) == short


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_different_paths_stay_different(paths):
    assert len(set(short_paths(paths))) == len(set(paths))


def test_kinds_keep_what_matters():
    kinds = ["model.language_model.layers.*.mlp.up_proj.weight", "visual.blocks.*.attn.qkv.bias"]
    assert short_kinds([*kinds, "model.weight"]) == [
        "mlp.up_proj",
        "visual.attn.qkv.bias",
        "model.weight",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 seconds"), (90, "90 seconds"), (150, "2.5 minutes"), (86400 * 3, "3 days")],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words


def test_pictures_stand_names_of_strangers():
    pytest.importorskip("matplotlib")
    names = ["model.layers.999999999.$\\frac$.weight", "x" * 5000, "\udce9.0.w"]
    experts = ["$\\frac{$", "y" * 5000]
    cosines = [[1.0, 0.0], [0.0, 1.0]]
    for picture in (
        draw_cosines(dict.fromkeys(names, [0.5, 0.5]), experts),
        draw_task_vectors(dict.fromkeys(names, [1e-6, 1.0]), cosines, experts),
    ):
        assert picture.startswith(b"\x89PNG")


def test_pictures_stand_zeros_and_gaps():
    pytest.importorskip("matplotlib")
    names = ["model.layers.0.mlp.up_proj.weight", "visual.blocks.1.attn.qkv.weight"]
    still = dict.fromkeys(names, [0.0, 0.0])
    both = [[1.0, 0.0], [0.0, 1.0]]
    for picture in (
        draw_losses(dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)),
        draw_losses(dict.fromkeys(names, 1.0), dict.fromkeys(names, 1e-6)),
        draw_norms(dict.fromkeys(names, 3.0), 2.0),
        draw_cosines(dict.fromkeys(names, [math.nan, 0.5]), ["a", "b"]),
        draw_task_vectors(still, [[0.0, 0.0], [0.0, 0.0]], ["a", "b"]),
        draw_task_vectors(still | {names[0]: [1e-6, math.inf]}, both, ["a", "b"]),
    ):
        assert picture.startswith(b"\x89PNG")
