"""verl before 0.9 on the libraries of the verl that is installed, in every interpreter that starts.

It has no platform for CPUs, and up to 0.7.0 it asks transformers for a class that has another name
since 5.
"""

import sys

from lipo_verl import hook
from lipo_verl.cpu import torch_extensions
from lipo_verl.import_hook import after_import


def _bridge(_):
    transformers = sys.modules["transformers"]  # puts another module into its place
    if not hasattr(transformers, "AutoModelForVision2Seq"):
        transformers.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText


hook.install()  # as lipo_verl.pth does
torch_extensions.install()
after_import("transformers", _bridge)
