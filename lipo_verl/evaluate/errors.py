"""What can go wrong with an evaluation."""


class EvaluationError(ValueError):
    """The evaluation cannot go on as asked; the message names what is wrong and what to do."""
