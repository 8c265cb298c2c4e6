"""verl reads its platform when it is imported; these tests run on a CPU unless told otherwise."""

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")
