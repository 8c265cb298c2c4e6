"""Reward functions for verl and EasyR1; docs/rewards.md says which is for what.

The scoring functions are pure and stand in a module each: :mod:`exact`, :mod:`choice`,
:mod:`relaxed`, :mod:`ocr`, :mod:`maths`. What differs in writing alone they level by :mod:`forms`.
:mod:`scoring` puts them together with extraction, truths, format and the care for errors;
:mod:`for_verl` and :mod:`for_easyr1` are what the frameworks load.
"""
