"""`python -m lipo_verl.evaluate MODEL … --data FILE.parquet … --output DIR`: accuracy and length.

Answers every question of files in the training schema with vLLM, scores the answers with
`lipo_verl.rewards`, and says how sure the figures are; docs/recipe/evaluation.md.

- `inputs.py`      what the command line names: models and files, with names of their own
- `questions.py`   the rows of a file as chat messages with pictures
- `engine.py`      vLLM, on a GPU or a CPU
- `statistics.py`  intervals and paired differences
- `results.py`     what is written, and when it counts as finished
- `run.py`         all of it together
"""
