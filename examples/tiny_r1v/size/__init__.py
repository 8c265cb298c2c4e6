"""``python -m examples.tiny_r1v.size``: does a training run fit, and how long does it take?

- ``shapes.py``    a model's shape from its config.json, and its number of parameters
- ``estimate.py``  memory and time, each formula a function
- ``choice.py``    the settings that fit
- ``frameworks.py``  the same in the words of verl and of EasyR1
"""
