"""Training data for the Tiny-R1V recipe: public datasets in one Parquet schema for verl and EasyR1.

    python -m examples.tiny_r1v.data math --output data/tiny_r1v    # or structure, ocr, mixture

Sources, licences, counts and choices: docs/recipe/data.md.
"""
