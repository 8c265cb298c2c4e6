"""Memory and time of a training run: FSDP with one vLLM on the same GPUs, as verl and EasyR1 do it.

Bytes and seconds. The constants in capitals are estimates, each with its origin:
    [datasheet]  the manufacturer's figure
    [framework]  what verl 0.9.1 does
    [EasyR1]     fitted to the public performance table of EasyR1 0.3.2 (its assets/baselines.md)
    [ours]       a guess, to be replaced by what your first step shows
None of it was measured by us on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from examples.tiny_r1v.size.shapes import Shape

GB = 1e9

RESERVED = 4 * GB
"""[ours] CUDA contexts of trainer and vLLM, NCCL, what vLLM keeps while it sleeps."""
FRAGMENTATION = 1.15
"""[ours] What torch's allocator holds over what is in use."""
VLLM_WORKSPACE = 4 * GB
"""[ours] CUDA graphs, activations and sampling of vLLM at 8192 batched tokens."""
LOGIT_BYTES = 12
"""[ours] One logit in bf16 and fp32, and the gradient of each."""
FUSED_TOKENS = 512
"""[framework] Tokens whose logits are there at a time with verl's use_fused_kernels."""
MFU = 0.38
"""[EasyR1] Share of the peak that the operations of a pass reach."""
LAYER_LATENCY = 8.5e-3
"""[EasyR1] Seconds of each layer, those of the vision tower too, in each micro batch of an update,
beside its operations: launches, and FSDP's communication within a node. A forward pass alone takes
a quarter of it."""
NETWORK = 25e9
"""[ours] Bytes per second and GPU between nodes: 200 Gbit/s for each."""
GPUS_PER_NODE = 8
PREFILL_MFU = 0.40
"""[ours] Share of the peak that vLLM reaches while it reads prompts."""
DECODE_EFFICIENCY = 0.30
"""[ours] Share of the memory's bandwidth that generation reaches: low, because a step waits for its
longest answers."""
MAX_SEQUENCES = 256
"""[ours] Answers that one vLLM generates at a time, if the cache holds them."""
STEP_OVERHEAD = 40.0
"""[EasyR1] Seconds of each step for weights to vLLM, rewards, data and logging."""


@dataclass(frozen=True)
class Gpu:
    """Datasheet figures: bytes, dense bf16 operations per second, bytes per second."""

    memory: float
    flops: float
    bandwidth: float


GPUS = {
    "a100-40": Gpu(40 * GB, 312e12, 1.56e12),
    "a100-80": Gpu(80 * GB, 312e12, 2.04e12),
    "a800-80": Gpu(80 * GB, 312e12, 2.04e12),
    "h20": Gpu(96 * GB, 148e12, 4.0e12),
    "h100": Gpu(80 * GB, 989e12, 3.35e12),
    "h200": Gpu(141 * GB, 989e12, 4.8e12),
    "l40s": Gpu(48 * GB, 362e12, 0.864e12),
    "l20": Gpu(48 * GB, 119.5e12, 0.864e12),
}
"""[datasheet]"""


@dataclass(frozen=True)
class Run:
    """What is asked of the machine.

    Attributes:
        gpus: over all nodes; all of them share the sharded state.
        batch: prompts per step.
        rollouts: responses to each.
        prompt, response: longest, in tokens; pictures count.
        image: tokens of a prompt's pictures.
        mean_prompt, mean_response: in tokens, for the time.
        reference: a reference model is there for KL.
        steps: of the run.
        fused: verl's use_fused_kernels, which never has the logits of a whole micro batch.
        lora_rank: of adapters on all linear layers, beside frozen weights; 0 trains all weights.
    """

    gpus: int
    batch: int
    rollouts: int
    prompt: int
    response: int
    image: int
    mean_prompt: int
    mean_response: int
    reference: bool
    steps: int
    fused: bool = False
    lora_rank: int = 0

    @property
    def sequence(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt + self.response

    @property
    def sequences(self) -> int:
        """Responses per step."""
        return self.batch * self.rollouts

    @property
    def tokens(self) -> int:
        """Tokens that are trained on per step, prompts included."""
        return self.sequences * (self.mean_prompt + self.mean_response)


@dataclass(frozen=True)
class Setting:
    """What is chosen.

    Attributes:
        micro_tokens: most tokens of one micro batch on one GPU.
        optimizer_offload, param_offload: Adam's moments, the fp32 weights leave the GPU while vLLM
            generates. Training has them there.
        cpu_offload: weights, gradients and moments stay in the machine's memory all the time.
        tensor_parallel: GPUs of one vLLM.
        utilization: vLLM's share of a GPU's memory.
    """

    micro_tokens: int
    optimizer_offload: bool
    param_offload: bool
    cpu_offload: bool
    tensor_parallel: int
    utilization: float


@dataclass(frozen=True)
class Training:
    """Bytes of one GPU while the model is trained."""

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    logits: float
    step: float
    reserved: float

    @property
    def fleeting(self) -> float:
        """The most of what comes and goes: a micro batch, with the allocator's waste, or Adam's
        step when the micro batches are over."""
        return max(FRAGMENTATION * (self.gathered + self.activations + self.logits), self.step)

    @property
    def total(self) -> float:
        """The peak."""
        return self.weights + self.gradients + self.moments + self.reserved + self.fleeting


@dataclass(frozen=True)
class Generation:
    """Bytes of one GPU while vLLM generates; ``cache`` may come out negative: too little."""

    weights: float
    moments: float
    vllm_weights: float
    vllm_workspace: float
    cache: float
    reserved: float

    @property
    def total(self) -> float:
        """All of it."""
        vllm = self.vllm_weights + self.vllm_workspace + max(0.0, self.cache)
        return self.weights + self.moments + vllm + self.reserved


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of one step."""

    generation: float
    log_probs: float
    update: float
    overhead: float

    @property
    def step(self) -> float:
        return self.generation + self.log_probs + self.update + self.overhead


def trained(shape: Shape, lora_rank: int) -> int:
    """Parameters that have gradients and moments: LoRA's adapters, or without a rank all."""
    return shape.adapters(lora_rank) or shape.parameters


def held(shape: Shape, lora_rank: int) -> int:
    """Parameters of the model with its adapters."""
    return shape.parameters + shape.adapters(lora_rank)


def activation_bytes(shape: Shape, micro_tokens: int, image_share: float) -> float:
    """T·(2·L·h + layer) + patches·(2·D·d + block), with gradient checkpointing.

    In bf16 every layer's input is kept, and one layer is recomputed in full: norms, q, k, v,
    attention and residuals (8·h + 2·kv numbers a token), gate, up, their product and its gradient
    (4·f). The vision tower does the same for each patch.

    image_share: share of the tokens that stand for pictures
    """
    layer = 2 * (8 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate)
    block = 2 * (10 * shape.image_hidden + 4 * shape.image_intermediate)
    patches = micro_tokens * image_share * shape.patches_per_token
    text = micro_tokens * (2 * shape.layers * shape.hidden + layer)
    return text + patches * (2 * shape.image_depth * shape.image_hidden + block)


def cache_bytes_per_token(shape: Shape, tensor_parallel: int) -> float:
    """2·2·L·kv/tp: keys and values in bf16. vLLM doubles heads where tp exceeds their number."""
    return 4 * shape.layers * shape.key_value / min(tensor_parallel, shape.key_value_heads)


def training_memory(shape: Shape, run: Run, setting: Setting) -> Training:
    """One GPU while the model is trained; vLLM sleeps, the reference model is elsewhere. 4·P/N for
    fp32 weights; of what is trained as much for gradients and 8·P/N for Adam's two moments; all
    sharded [framework]. verl keeps LoRA's frozen weights in fp32 as well, EasyR1 in bf16, half of
    what is counted here [framework]."""
    logit_tokens = FUSED_TOKENS if run.fused else setting.micro_tokens
    sharded = 0.0 if setting.cpu_offload else 4 / run.gpus
    gradients = sharded * trained(shape, run.lora_rank)
    # The layer in work, the next one and what belongs to no layer.
    gathered = 2 * shape.layer_parameters + shape.embedding_parameters
    adapters = 2 * run.lora_rank * shape.layer_widths
    return Training(
        weights=sharded * held(shape, run.lora_rank),
        gradients=gradients,
        moments=2 * gradients,
        # In bf16, and so are their gradients before they are reduced [framework].
        gathered=2 * (gathered + adapters) + 2 * (adapters or gathered),
        activations=activation_bytes(shape, setting.micro_tokens, run.image / run.sequence),
        logits=logit_tokens * shape.vocabulary * LOGIT_BYTES,
        step=gradients,  # torch's Adam takes the roots of all second moments at once [framework]
        reserved=RESERVED,
    )


def generation_memory(shape: Shape, run: Run, setting: Setting, gpu_memory: float) -> Generation:
    """One GPU while vLLM generates: what the trainer left there, and vLLM's share."""
    weights_stay = not (setting.param_offload or setting.cpu_offload)
    moments_stay = not (setting.optimizer_offload or setting.cpu_offload)
    vllm_weights = 2 * shape.parameters / setting.tensor_parallel
    return Generation(
        weights=4 * held(shape, run.lora_rank) / run.gpus * weights_stay,
        moments=8 * trained(shape, run.lora_rank) / run.gpus * moments_stay,
        vllm_weights=vllm_weights,
        vllm_workspace=VLLM_WORKSPACE,
        cache=setting.utilization * gpu_memory - vllm_weights - VLLM_WORKSPACE,
        reserved=RESERVED,
    )


def host_bytes(shape: Shape, run: Run, setting: Setting) -> float:
    """What offloading takes of the machines' memory, all nodes together: 4·P for the weights; of
    what is trained 8·P for the moments and 4·P for gradients that never come to the GPU; 4·P for
    the reference model, which verl keeps there [framework]. With LoRA verl's reference is the model
    without its adapters, and the 4·P are a copy of the frozen weights while they are merged for
    vLLM [framework]."""
    of_trained = 8 * (setting.optimizer_offload or setting.cpu_offload) + 4 * setting.cpu_offload
    return (
        4 * held(shape, run.lora_rank) * (setting.param_offload or setting.cpu_offload)
        + of_trained * trained(shape, run.lora_rank)
        + 4 * shape.parameters * (run.reference or run.lora_rank > 0)
    )


def node_bytes(shape: Shape, run: Run, setting: Setting, per_node: int) -> float:
    """The most of one node's memory: each of its ranks loads the whole model in fp32 at first
    [framework], beside what is offloaded there, and 32 GB for Ray, data and Python [ours]. EasyR1
    reports a peak of 120 GB for a 3B model on 8 GPUs, of 120 to 200 GB for a 7B one [EasyR1].

    per_node: GPUs of a node
    """
    offloaded = host_bytes(shape, run, setting) * per_node / run.gpus
    return 4 * held(shape, run.lora_rank) * per_node + offloaded + 32 * GB


def checkpoint_bytes(shape: Shape, lora_rank: int = 0) -> float:
    """One checkpoint, so that the run can resume: fp32 weights, LoRA's frozen ones too, and two
    moments of what is trained [framework]."""
    return 4 * held(shape, lora_rank) + 8 * trained(shape, lora_rank)


def concurrent(shape: Shape, run: Run, setting: Setting, cache: float) -> int:
    """Answers of full length that one vLLM's cache holds at a time."""
    return int(cache // (cache_bytes_per_token(shape, setting.tensor_parallel) * run.sequence))


def forward_flops(shape: Shape, tokens: float, sequence: float) -> float:
    """2·P·T + 2·L·q·S·T: a multiplication and an addition for each parameter of the layers and of
    the output layer, and causal attention over sequences of S tokens. The vision tower, a fifth of
    a 3B model, is counted at the same tokens: an estimate from above."""
    used = shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)
    return tokens * (2 * used + 2 * shape.layers * shape.query * sequence)


def times(shape: Shape, run: Run, setting: Setting, gpu: Gpu, cache: float) -> Times:
    """Seconds of one step.

    generation: prompts are read once for all their responses; then every pass over the weights and
                the cache makes a token for each answer at hand, as fast as the memory is read
    log_probs:  a forward pass by the policy, one more by the reference
    update:     forward, once more for the checkpoints, and backward at twice its cost: 4 forward,
                less the gradients of frozen weights
    """
    engines = run.gpus // setting.tensor_parallel
    at_once = min(
        MAX_SEQUENCES,
        max(1, concurrent(shape, run, setting, cache)),
        -(-run.sequences // engines),
    )
    length = run.mean_prompt + run.mean_response
    kept = at_once * (run.mean_prompt + run.mean_response / 2)
    weights = 2 * shape.parameters / setting.tensor_parallel
    read = weights + kept * cache_bytes_per_token(shape, setting.tensor_parallel)
    passes = run.sequences * run.mean_response / (engines * at_once)
    decode = passes * read / (DECODE_EFFICIENCY * gpu.bandwidth)
    prefill = forward_flops(shape, run.batch * run.mean_prompt, run.mean_prompt)
    speed = run.gpus * MFU * gpu.flops
    forward = forward_flops(shape, run.tokens, length) / speed
    frozen = forward_flops(shape, run.tokens, 0) / speed * (run.lora_rank > 0)
    micro_batches = math.ceil(run.tokens / run.gpus / setting.micro_tokens)
    latency = micro_batches * (shape.layers + shape.image_depth) * LAYER_LATENCY
    # 2·P bytes over the network for each micro batch of a forward pass; within a node LAYER_LATENCY
    # has it. FSDP fetches a layer ahead, so the longer of this and of what is computed counts.
    networked = micro_batches / NETWORK * (run.gpus > GPUS_PER_NODE)
    gathering = networked * 2 * held(shape, run.lora_rank)
    reducing = networked * 4 * trained(shape, run.lora_rank)
    return Times(
        generation=decode + prefill / (run.gpus * PREFILL_MFU * gpu.flops),
        log_probs=(2 if run.reference else 1) * max(forward + latency / 4, gathering),
        # The weights are gathered twice, and the fp32 gradients reduced.
        update=max(4 * forward - frozen + latency, 2 * gathering + reducing),
        overhead=STEP_OVERHEAD,
    )
