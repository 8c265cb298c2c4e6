"""CUDA builds of torchvision, torchaudio and torchcodec beside a CPU build of torch.

The package index carries them for CUDA only, and their compiled parts do not load without the CUDA
runtime. Where that is so:

- torchvision: `import torchvision` fails, because the operators `torchvision::nms` and
  `torchvision::qnms` were never defined. Image processing needs neither, so defining their
  schemas is enough. transformers does not load Qwen2.5-VL's processor without torchvision.
- torchaudio and torchcodec: importing them raises OSError where vLLM, which can do without, only
  expects ImportError.

Where the compiled parts load (any CPU build), nothing is changed. Seen with torch 2.13, torchvision
0.28, torchaudio 2.11, torchcodec 0.17; goes away when the index carries CPU builds.
"""

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType

COMPILED_PARTS = {
    "torchvision": "_C*.so",
    "torchaudio": "lib/_torchaudio*.so",
    "torchcodec": "libtorchcodec_image*.so",
}

_libraries: list[object] = []
"""torch forgets the operators of a library that is no longer referenced."""


class CudaBuildFinder(MetaPathFinder):
    """Acts when one of them is about to be imported, and leaves the import itself to others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in COMPILED_PARTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        folders = () if spec is None else spec.submodule_search_locations or ()
        if spec is None or any(_loads(Path(each), COMPILED_PARTS[name]) for each in folders):
            return None
        if name != "torchvision":
            return importlib.machinery.ModuleSpec(name, RefusingLoader())
        if not _libraries:
            _libraries.append(_defined_operators())
        return None


class RefusingLoader(Loader):
    """Turns the OSError of a compiled part that does not load into the ImportError it should be."""

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is a CUDA build, but torch is a CPU build")


def install() -> None:
    """Put the finder in front, once for this process. Import none of them, nor torch."""
    if not any(isinstance(finder, CudaBuildFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CudaBuildFinder())


def _loads(package: Path, pattern: str) -> bool:
    import torch

    try:
        for library in package.glob(pattern):
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _defined_operators() -> object:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
