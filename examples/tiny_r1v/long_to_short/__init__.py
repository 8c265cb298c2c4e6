"""Long-to-short by merging: how much length does a merge of two models of one base save?

``python -m examples.tiny_r1v.long_to_short`` makes a model that answers at once and one that
explains itself at length, merges them by several methods and strengths, and measures tokens
against accuracy; docs/recipe/long-to-short.md.

- ``sources.py``      the two models, from the quickstart's base
- ``calibration.py``  what AIM and RPAM learn from training questions
- ``merges.py``       what is merged, and how strongly
- ``report.py``       the table and the plot
"""
