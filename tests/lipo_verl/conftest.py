"""These tests run on a CPU unless told otherwise, with whichever verl is found first: another than
the installed one, which ``make test-verl`` puts ahead, runs on the libraries of the installed one.
"""

import importlib.util
import os
import sys
from pathlib import Path

from lipo_verl import hook
from lipo_verl.cpu import torch_extensions
from lipo_verl.import_hook import after_import


def bridge_transformers(_):
    """verl up to 0.7.0 asks for a class that transformers 5 gave another name."""
    transformers = sys.modules["transformers"]  # puts another module into its place
    if not hasattr(transformers, "AutoModelForVision2Seq"):
        transformers.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText


hook.install()  # as lipo_verl.pth does
verl = importlib.util.find_spec("verl")
if verl is not None and not Path(verl.origin).with_name("plugin").is_dir():  # before 0.9
    torch_extensions.install()
    after_import("transformers", bridge_transformers)
else:
    os.environ.setdefault("VERL_PLATFORM", "cpu")
