"""Tables as pictures: complete, readable, never scaled."""

import numpy as np
import pytest

from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.images import MAX_PIXELS
from examples.tiny_r1v.data.tables import Table, draw


def table(rows=3, cell="some text", header=("No.", "Name"), title=""):
    return Table(header, tuple((str(i), cell) for i in range(rows)), title)


def test_every_row_adds_the_height_of_its_text():
    heights = [draw(table(rows)).height for rows in (2, 3, 4)]
    assert heights[1] - heights[0] == heights[2] - heights[1] > 16
    assert draw(table(cell="long words " * 12)).height > draw(table(cell="long")).height


def test_a_cell_that_differs_changes_the_picture_there_only():
    one, other = (np.asarray(draw(table(3, cell))) for cell in ("3.14", "3.15"))
    rows, columns, _ = np.nonzero(one != other)
    assert rows.size and columns.min() > one.shape[1] // 4


def test_a_title_stands_above_and_widens_a_narrow_table():
    assert draw(table(title="Results of 1960")).height > draw(table()).height
    assert draw(table(title="Results of the year 1960")).width > draw(table()).width


def test_an_empty_cell_is_drawn():
    assert draw(Table(("a", ""), (("", "b"),))).width > 0


@pytest.mark.parametrize(
    "broken, reason",
    [
        (table(rows=2000), "too large"),
        (Table(("wide header",) * 400, (("1",) * 400,)), "too large"),
        (table(cell="word " * 60_000), "too large"),
        (table(cell="東京"), "font lacks"),
        (table(rows=0), "without cells"),
        (Table((), ((),)), "without cells"),
    ],
)
def test_tables_that_cannot_be_read_are_dropped(broken, reason):
    with pytest.raises(Dropped, match=reason):
        draw(broken)


def test_a_drawn_table_is_within_the_limit():
    image = draw(table(rows=40))
    assert image.width * image.height <= MAX_PIXELS
