# syntax=docker/dockerfile:1
# Two images; how to build and run them: examples/tiny_r1v/README.md
#   gpu  training, merging and evaluation on NVIDIA GPUs: verl 0.9.1 with its own vLLM set (torch 2.11.0
#        for CUDA 13.0, vllm 0.24.0, transformers 5.9.0), flash-attn 2.8.3, this repository. The driver
#        has to know CUDA 13: 580 or newer.
#   cpu  the demo and the tests, on any x86_64 machine: docker build --target cpu
ARG CPU_BASE=debian:bookworm-slim
# nvcc and the headers are there for the kernels that vLLM's FlashInfer and Triton compile at run time.
ARG GPU_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04

FROM ${CPU_BASE} AS cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iproute2 libnuma1 make python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 2000 lipo \
    && useradd --create-home --uid 2000 --gid 2000 --shell /bin/bash lipo \
    && install --directory --owner=lipo --group=lipo /opt/venv /workspace /workspace/runs
USER 2000:2000
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VERL_PLATFORM=cpu
WORKDIR /workspace
COPY --chown=lipo:lipo . .
RUN make setup VENV=/opt/venv && python docker/healthcheck.py
VOLUME ["/workspace/runs"]
CMD ["make", "demo", "VENV=/opt/venv"]

FROM ${GPU_BASE} AS stack
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
WORKDIR /workspace
COPY --chown=lipo:lipo pyproject.toml setup.py README.md LICENSE ./
COPY --chown=lipo:lipo amm amm
COPY --chown=lipo:lipo lipo_verl lipo_verl
COPY --chown=lipo:lipo examples examples
COPY --chown=lipo:lipo docker/healthcheck.py docker/healthcheck.py
RUN pip install --only-binary=:all: --no-binary=antlr4-python3-runtime \
        --constraint /tmp/constraints.txt --editable ".[gpu,recipe]" \
    && python docker/healthcheck.py
VOLUME ["/cache", "/workspace/data", "/workspace/runs"]
CMD ["bash"]

FROM stack AS gpu
# The package index has flash-attn as source alone, which takes hours to compile. Another wheel for
# Python 3.12, torch 2.11 and CUDA 13 does as well: --build-arg FLASH_ATTN=https://…/flash_attn-….whl
ARG FLASH_ATTN=https://github.com/mjun0812/flash-attention-prebuild-wheels/releases/download/v0.9.4/flash_attn-2.8.3+cu130torch2.11-cp312-cp312-linux_x86_64.whl#sha256=173b0e1a5d6a0becb4ce11b755605c4b20289a6d17816a00cfd7a69078c3e612
RUN pip install --no-deps --only-binary=:all: --constraint /tmp/constraints.txt \
        "flash-attn @ ${FLASH_ATTN}" "einops==0.8.2" \
    && python docker/healthcheck.py flash_attn
