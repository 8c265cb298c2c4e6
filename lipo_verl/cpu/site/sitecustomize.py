"""Runs at the start of every Python process that has this folder in `PYTHONPATH`.

vLLM's engine starts as a fresh process and imports torchvision before it loads any plug-in, so
nothing later than this is early enough.
"""

from lipo_verl.cpu import torch_extensions

torch_extensions.install()
