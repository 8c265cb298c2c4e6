# syntax=docker/dockerfile:1
# Training, merging and evaluation on NVIDIA GPUs: verl 0.9.1 with its own vLLM set (torch 2.11.0 for
# CUDA 13.0, vllm 0.24.0, transformers 5.9.0), flash-attn 2.8.3, this repository. The driver has to
# know CUDA 13: 580 or newer. How to build and run: examples/tiny_r1v/README.md

# nvcc and the headers are there for the kernels that vLLM's FlashInfer and Triton compile at run time.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential libnuma1 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid 2000 lipo \
    && useradd --create-home --uid 2000 --gid 2000 --shell /bin/bash lipo \
    && install --directory --owner=lipo --group=lipo \
        /opt/venv /cache /workspace /workspace/data /workspace/runs
USER 2000:2000
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/cache/huggingface \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/venv

# The large and constant part first. antlr4 4.9.3 has no wheel, and is pure Python.
COPY docker/constraints.txt /tmp/constraints.txt
RUN pip install --only-binary=:all: --no-binary=antlr4-python3-runtime \
        --constraint /tmp/constraints.txt \
        "verl[vllm]==0.9.1" "torchcodec==0.11.1"

# Upstream has no flash-attn wheel for torch 2.11; verl builds one and its lock file names it. Another
# one for Python 3.12, torch 2.11 and CUDA 13 does as well:
# --build-arg FLASH_ATTN=https://…/flash_attn-….whl
ARG FLASH_ATTN=https://github.com/verl-project/verl-wheelhouse/releases/download/flash-attention-v2.8.3/flash_attn-2.8.3-cp312-cp312-linux_x86_64.whl
RUN pip install --no-deps --only-binary=:all: --constraint /tmp/constraints.txt \
        "flash-attn @ ${FLASH_ATTN}" "einops==0.8.2"

WORKDIR /workspace
COPY --chown=lipo:lipo pyproject.toml setup.py README.md LICENSE ./
COPY --chown=lipo:lipo amm amm
COPY --chown=lipo:lipo lipo_verl lipo_verl
COPY --chown=lipo:lipo examples examples
COPY --chown=lipo:lipo docker/healthcheck.py docker/healthcheck.py
RUN pip install --only-binary=:all: --no-binary=antlr4-python3-runtime \
        --constraint /tmp/constraints.txt --editable ".[gpu,recipe]"

VOLUME ["/cache", "/workspace/data", "/workspace/runs"]
HEALTHCHECK --interval=10m --timeout=5m --start-period=5m --retries=1 \
    CMD ["python", "docker/healthcheck.py"]
CMD ["bash"]
