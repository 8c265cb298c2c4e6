"""Skills ask different questions, and want different endings of the same chains."""

from itertools import combinations
from random import Random

import pytest

from examples.evidence.merging.skills import FAMILIES, SKILLS, as_trained, ask, draw_skills
from examples.quickstart.tasks import TASKS, Example, make_example

SEEDS = range(20)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_skills_of_a_set_have_a_question_in_common(family):
    for seed in SEEDS:
        skills = draw_skills(family, seed)
        assert len(skills) == SKILLS
        for one, other in combinations(skills, 2):
            assert one.task != other.task or not set(one.wordings) & set(other.wordings)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_wanted_comes_again_only_after_all_of_the_family(family):
    kinds = len(FAMILIES[family])
    for seed in SEEDS:
        wanted = [(skill.place, skill.closing) for skill in draw_skills(family, seed)]
        for begun in range(0, SKILLS, kinds):
            assert sorted(wanted[begun : begun + kinds]) == sorted(FAMILIES[family])


def test_the_first_three_are_of_the_three_tasks_and_sets_differ():
    sets = [draw_skills("closings", seed) for seed in SEEDS]
    assert all([skill.task for skill in skills[:3]] == list(TASKS) for skills in sets)
    assert len({tuple(skills) for skills in sets}) == len(sets)


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("start", lambda path: path[0]),
        ("first", lambda path: path[1]),
        ("before the last", lambda path: path[len(path) - 2]),
        ("last", lambda path: path[len(path) - 1]),
    ],
)
def test_an_answer_is_the_chain_and_the_symbol_at_the_place(monkeypatch, place, wanted):
    drawn: list[Example] = []

    def make(task, rng):
        drawn.append(make_example(task, rng))
        return drawn[-1]

    monkeypatch.setattr("examples.evidence.merging.skills.make_example", make)
    (skill,) = [each for each in draw_skills("places", 0)[:4] if each.place == place]
    for number in range(20):
        question = ask(skill, Random(number))
        path = drawn[-1].path
        assert question.answer == f"{path[1:]} Answer: {wanted(path)}"
        assert question.right(question.answer)
        other = next(symbol for symbol in "0123456ACEHKLPTUX" if symbol != wanted(path))
        assert not question.right(f"{path[1:]} Answer: {other}")


def test_the_right_symbol_in_another_skills_words_is_wrong():
    skills = draw_skills("closings", 1)
    for one in skills:
        question = ask(one, Random(0))
        symbol = question.answer.split(" ")[0][-1]
        for other in skills:
            answer = question.answer.replace(question.ending, other.closing.format(symbol))
            assert question.right(answer) == (one.closing == other.closing)


def test_questions_of_the_trained_tasks_take_any_answer_that_ends_rightly():
    for skill in as_trained():
        question = ask(skill, Random(3))
        assert question.right(f"Let me see. Wait, let me check. Yes. {question.ending}")
        assert question.right(question.ending)
        assert not question.right(f"{question.ending} Yes.")
