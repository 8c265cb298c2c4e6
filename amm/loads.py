"""Whether transformers and vLLM take a folder, tried in a process of its own.

`python amm/loads.py transformers FOLDER` prints one JSON object: `ok` (true, false, or null where
it couldn't be tried) and `detail`. No weights are read into memory and no code of the folder runs:
the process works in an empty folder, from which alone Python would import what lies around, has
nobody to ask, and lets the libraries use nothing but their own model classes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

SECONDS = 300
LEFT_OUT = ("peft", "kernels")
"""Libraries that transformers would use where files of the folder name adapters or kernels."""

_UNKNOWN_CLASS = (
    "trust_remote_code",
    "does not recognize this architecture",
    "are not supported for now",
)
"""In the errors of transformers and vLLM where they have no class of their own for a model."""


def try_loading(library: str, folder: Path) -> tuple[bool | None, str]:
    """Try a library on a folder.

    Args:
        library: `transformers` or `vllm`.
        folder: a model.

    Returns:
        Whether it takes it (None: couldn't be tried), and what happened in words.
    """
    if importlib.util.find_spec(library) is None:
        return None, f"{library} isn't installed here"
    command = [sys.executable, __file__, library, str(folder.absolute())]
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    try:
        with tempfile.TemporaryDirectory() as empty:
            environment = os.environ | {
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": empty,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths)),
                "PYTHONSAFEPATH": "1",
                "VLLM_LOGGING_LEVEL": "ERROR",
            }
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                env=environment,
                cwd=empty,
            )
    except subprocess.TimeoutExpired:
        return None, f"{library} didn't answer within {SECONDS} s"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer["ok"], answer["detail"]
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return None, f"{library} can't be used here: {last}"


def in_transformers(folder: str) -> tuple[bool | None, str]:
    """Build the model on the meta device and fit the stored names and shapes to it."""
    import torch
    import transformers

    # Asked of tied tensors that are both stored, and the meta device has no values: a check apart.
    torch.equal = lambda input, other: True
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    version = f"transformers {transformers.__version__}"
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = (config.architectures or ["none"])[0]
    model_class = _model_class(transformers, name)
    if model_class is None:
        return None, f"{version} has no model class {name}, which config.json names"
    if not any(Path(folder).glob("*.safetensors")):
        return None, f"{version} is tried with safetensors alone"
    model, loading = model_class.from_pretrained(
        folder,
        device_map="meta",
        dtype="auto",
        output_loading_info=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    wrong = {
        kind: sorted(str(key) for key in loading[f"{kind}_keys"])
        for kind in ("missing", "unexpected", "mismatched")
    }
    own = model.state_dict().keys()  # with tied tensors, which a file may store again
    wrong["unexpected"] = [key for key in wrong["unexpected"] if key not in own]
    if any(wrong.values()):
        parts = [
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
            for kind, keys in wrong.items()
            if keys
        ]
        return False, f"{version}, {name}: {', '.join(parts)}"
    return True, f"{version}: {name}, {sum(p.numel() for p in model.parameters()):,} parameters"


def _model_class(transformers: Any, name: object) -> Any:
    """The model class of that name; the classes that choose one, or code, by a folder are none."""
    try:
        found = getattr(transformers, str(name), None)
    except Exception as error:  # of one of the libraries that it imports
        raise ImportError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not found.__module__.startswith("transformers.models."):
        return None
    return found if issubclass(found, transformers.PreTrainedModel) else None


def in_vllm(folder: str) -> tuple[bool | None, str]:
    """Let vLLM's registry resolve the model class and validate its configuration."""
    import vllm
    from vllm.config import ModelConfig

    config = ModelConfig(model=folder, tokenizer=folder, trust_remote_code=False)
    return True, f"vllm {vllm.__version__}: {config.architecture}"


def _is_of_an_import(error: BaseException | None) -> bool:
    """Whether it is a library that is broken, another one that it needs, say, and not the model."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ImportError) or any(frame.name == "<module>" for frame in frames[1:]):
            return True
        error = error.__cause__ or error.__context__
    return False


TRIED = {"transformers": ("transformers", in_transformers), "vllm": ("vllm.config", in_vllm)}
"""For each library, the module that trying it needs, and how it is tried."""


def main() -> None:
    """Answer for one library and one folder."""
    library, folder = sys.argv[1:]
    for module in LEFT_OUT:
        sys.modules[module] = None  # type: ignore[assignment]  # it makes their import fail
    module, tried = TRIED[library]
    importlib.import_module(module)  # what fails here is wrong with the library, not the folder
    try:
        ok, detail = tried(folder)
    except Exception as error:
        if _is_of_an_import(error):
            raise
        said = " ".join(str(error).split())
        ok = None if any(words in said for words in _UNKNOWN_CLASS) else False
        detail = f"{library}: {type(error).__name__}: {said}"
        if ok is None and "trust_remote_code" in said:
            detail = f"{library} needs the model's own code, which isn't run here"
    print(json.dumps({"ok": ok, "detail": detail[:500]}))


if __name__ == "__main__":
    main()
