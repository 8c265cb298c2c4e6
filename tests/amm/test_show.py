"""Tables that fit a terminal of 80 columns, however many experts there are."""

import pytest
from rich.console import Console

import amm
from amm.planning import Plan
from amm.show import show_inspection, show_plan

PARTS = ("embedding", "head", "language", "merger", "vision")


def printed(show, *arguments, **options):
    console = Console(width=80)
    with console.capture() as capture:
        show(*arguments, console, **options)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert max(map(len, lines)) <= 80
    return lines


@pytest.mark.parametrize("experts", [2, 5, 6, 20])
def test_what_each_expert_moved_is_a_column_or_a_line(experts):
    inputs = [{"path": "m", "found": "f", "head": "h"}] * (experts + 1)
    frozen = {part: [(i, 370) for i in range(experts)] for part in PARTS}
    lines = printed(show_plan, Plan(inputs=inputs, frozen=frozen), everything=False)
    cells = [line for line in lines if line.endswith(f"{370 - (experts - 1)} of 370")]
    assert len(cells) == (len(PARTS) if experts < 6 else 1)
    assert sum(line.count(" of 370") for line in lines) == len(PARTS) * experts


def test_cosines_of_many_experts_come_in_several_tables(pico):
    base, experts = pico
    lines = printed(show_inspection, amm.inspect(base, experts * 4), layers=False)
    heads = [line.split()[1:] for line in lines if line.startswith("cosine")]
    assert heads == [list("123456"), list("78")]
    assert sum(line.count("1.000") for line in lines) == 8 * 4
