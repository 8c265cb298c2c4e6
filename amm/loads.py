"""Whether transformers and vLLM take a folder, tried in a process of its own.

`python -m amm.loads transformers FOLDER` prints one JSON object: `ok` (true, false, or null where
it couldn't be tried) and `detail`. No weights are read into memory and no code of the folder runs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

SECONDS = 300


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
    command = [sys.executable, "-m", "amm.loads", library, str(folder.absolute())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment
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
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    version = f"transformers {transformers.__version__}"
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = (config.architectures or ["none"])[0]
    if not hasattr(transformers, name):
        return None, f"{version} has no class {name}, which config.json names"
    model, loading = getattr(transformers, name).from_pretrained(
        folder, device_map="meta", dtype="auto", output_loading_info=True
    )
    wrong = {
        kind: sorted(str(key) for key in loading[f"{kind}_keys"])
        for kind in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        parts = [
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
            for kind, keys in wrong.items()
            if keys
        ]
        return False, f"{version}, {name}: {', '.join(parts)}"
    return True, f"{version}: {name}, {sum(p.numel() for p in model.parameters()):,} parameters"


def in_vllm(folder: str) -> tuple[bool | None, str]:
    """Let vLLM's registry resolve the model class and validate its configuration."""
    import vllm
    from vllm.config import ModelConfig

    config = ModelConfig(model=folder, tokenizer=folder, trust_remote_code=False)
    return True, f"vllm {vllm.__version__}: {config.architecture}"


def main() -> None:
    """Answer for one library and one folder."""
    library, folder = sys.argv[1:]
    importlib.import_module(library)
    try:
        ok, detail = {"transformers": in_transformers, "vllm": in_vllm}[library](folder)
    except ImportError:
        raise
    except Exception as error:
        ok, detail = False, f"{library}: {type(error).__name__}: {' '.join(str(error).split())}"
    print(json.dumps({"ok": ok, "detail": detail[:500]}))


if __name__ == "__main__":
    main()
