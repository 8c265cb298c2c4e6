"""Reward functions for verl and EasyR1; docs/rewards.md says which is for what.

The scoring functions are pure and stand in a module each: `exact`, `choice`,
`relaxed`, `ocr`, `maths`. What differs in writing alone they level by `forms`.
`scoring` puts them together with extraction, truths, format and the care for errors;
`for_verl` and `for_easyr1` are what the frameworks load.
"""
