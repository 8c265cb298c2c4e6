"""verl, Ray and vLLM on a machine without a GPU, for small models and for tests.

Nothing here is active unless `VERL_PLATFORM=cpu` is set. Then verl's plug-in and vLLM's plug-in
(both entry points of this package) adapt their process:

- `platform.py`          the platform that verl asks for devices
- `verl_patches.py`      what verl 0.9 cannot be told through its platform
- `vllm_plugin.py`       what vLLM 0.30 must do otherwise
- `torch_extensions.py`  torchvision's and torchaudio's CUDA builds beside a CPU torch
- `site/`                the same for processes that import torchvision before any plug-in
- `config/platform/cpu.yaml`  the settings that a CPU run needs, as one Hydra config
- `__main__.py`          `python -m lipo_verl.cpu ...` runs verl's PPO trainer with all of it
"""
