"""Stands in, in every process that has this folder on PYTHONPATH, for what EasyR1 needs a GPU for.

vLLM, qwen_vl_utils and msgspec are modules that have any class one asks for; the trainer's workers
are those of ``gpu_workers.py``.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from lipo_verl.import_hook import after_import


class Double(ModuleType):
    def __init__(self, name, **attributes):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {}))
        return self.__dict__[name]


def double_the_workers(ray_trainer):
    import gpu_workers

    ray_trainer.RayPPOTrainer.init_workers = gpu_workers.init_workers


for name in (
    "vllm",
    "vllm.distributed",
    "vllm.lora",
    "vllm.lora.models",
    "vllm.lora.request",
    "vllm.lora.utils",
    "vllm.lora.worker_manager",
    "qwen_vl_utils",
    "qwen_vl_utils.vision_process",
):
    sys.modules[name] = Double(name)
sys.modules["msgspec"] = Double("msgspec", field=lambda default: default)
after_import("verl.trainer.ray_trainer", double_the_workers)
