"""Marks are of what a model really answers to the questions."""

import torch

from examples.evidence.merging.examine import Examination
from examples.evidence.merging.experts import load, processor
from examples.evidence.merging.skills import as_trained, draw_skills
from examples.quickstart import base_model


class Pupil:
    """Answers the first of its questions wrongly, the others rightly."""

    def __init__(self, examination):
        self.tokenizer = processor().tokenizer
        self.answers = [question.answer for each in examination.asked for question in each]

    def generate(self, input_ids, **_):
        texts = ["no", *self.answers[1:]]
        said = [self.tokenizer(text + self.tokenizer.eos_token)["input_ids"] for text in texts]
        self.lengths = [len(ids) for ids in said]
        longest = max(self.lengths)
        padded = [ids + [self.tokenizer.pad_token_id] * (longest - len(ids)) for ids in said]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


def test_marks_are_the_share_of_right_answers_and_their_mean_length_by_skill():
    examination = Examination(draw_skills("closings", 0)[:3], 4, 0)
    pupil = Pupil(examination)
    marks = examination.marks(pupil, range(3))
    assert marks.accuracy == [0.75, 1.0, 1.0]
    lengths = torch.tensor(pupil.lengths, dtype=torch.float64).view(3, 4).mean(dim=1)
    torch.testing.assert_close(torch.tensor(marks.tokens, dtype=torch.float64), lengths)


def test_the_base_answers_what_it_was_trained_on_and_no_other_words():
    base = load(base_model.FOLDER)
    trained = Examination(as_trained(), 20, 0).marks(base, range(3))
    assert min(trained.accuracy) > 0.7
    skills = [skill for skill in draw_skills("closings", 0) if skill.closing.startswith("Steps")]
    assert Examination(skills, 8, 0).marks(base, [0]).accuracy == [0.0]


def test_a_skill_gets_the_same_marks_alone_and_among_others():
    examination = Examination(as_trained(), 10, 1)
    base = load(base_model.FOLDER)
    every = examination.marks(base, range(3))
    alone = [examination.marks(base, [number]) for number in range(3)]
    assert every.accuracy == [accuracy for marks in alone for accuracy in marks.accuracy]
    assert every.tokens == [tokens for marks in alone for tokens in marks.tokens]
