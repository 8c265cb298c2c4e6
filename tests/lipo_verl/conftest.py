"""These tests run on a CPU unless told otherwise, with whichever verl is found first: ``make
test-verl`` puts another one ahead of the installed one.
"""

import importlib.util
import os
import runpy
from pathlib import Path

from lipo_verl import hook

OLDER_VERL = Path(__file__).parent / "older_verl"
REPOSITORY = Path(__file__).parents[2]

hook.install()  # as lipo_verl.pth does
verl = importlib.util.find_spec("verl")
if verl is not None and not Path(verl.origin).with_name("plugin").is_dir():  # before 0.9
    folders = [str(OLDER_VERL), str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(":")]
    os.environ["PYTHONPATH"] = ":".join(folders)
    runpy.run_path(str(OLDER_VERL / "sitecustomize.py"))
else:
    os.environ.setdefault("VERL_PLATFORM", "cpu")
