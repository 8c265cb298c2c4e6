"""A question as it comes out of a dataset, before its picture is read."""

from typing import NamedTuple

from examples.tiny_r1v.data.tables import Table


class Question(NamedTuple):
    """A question with its truth, the reward's task, and the table that is to be drawn, if any."""

    text: str
    answer: str
    task: str
    table: Table | None = None
