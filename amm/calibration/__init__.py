"""What some methods learn from forward passes over questions, beside the weights.

- `questions.py`    questions with pictures, and answers to them
- `models.py`       models as transformers loads them
- `activations.py`  AIM's: how active the inputs of each linear layer are
- `patterns.py`     RPAM's labels: which questions want a long answer
- `alignment.py`    RPAM's coefficients, a layer after the other
- `run.py`          all of it together, into a file that `amm merge` takes

It needs `transformers`, and is imported by what asks for it only.
"""
