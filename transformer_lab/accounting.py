"""What a model costs: parameters, floating-point operations, memory.

Counts are exact and need no memory for the model: they work on the meta device, where a tensor has a
shape and no numbers. One multiplication with its addition counts as 2 operations (FLOPs).
"""

import copy
import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from transformer_lab import checks

PARTS = ("embeddings", "attention", "feed-forward", "norms", "head", "other")

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def on_meta(make: Callable[[], AnyModule]) -> AnyModule:
    """Build a model of any size without memory for its weights.

    Args:
        make: Builds the model; called once, with no argument.

    Returns: The model, on the meta device: it can be counted, not run on numbers.
    Raises: TypeError if make returns no module; ValueError if make puts weights elsewhere.

    >>> model = on_meta(lambda: nn.Linear(1_000_000, 1_000_000, bias=False))
    >>> count_parameters(model)
    1000000000000
    """
    if isinstance(make, nn.Module) or not callable(make):
        raise TypeError(
            "make must be a function that builds the model, such as `lambda: nn.Linear(2, 3)`; "
            f"it is a {type(make).__name__}."
        )
    with torch.device("meta"):
        model = make()
    checks.kind("what make returns", model, nn.Module, "an nn.Module")
    elsewhere = [name for name, weight in model.named_parameters() if not weight.is_meta]
    if elsewhere:
        raise ValueError(
            f"every weight must be on the meta device; {elsewhere[0]} is elsewhere. "
            "Build the model inside make, and name no device there."
        )
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers a model learns; a tensor that two modules share counts once.

    Args:
        model: Any module, on any device.

    Raises: TypeError if model is no module.

    >>> count_parameters(nn.Linear(2, 3))
    9
    """
    checks.kind("model", model, nn.Module, "an nn.Module")
    return sum(weight.numel() for weight in model.parameters())


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """How many parameters each part of a Transformer has.

    A weight's part follows from its place in the model, the first of these that holds: head (under a
    module named `…head`, `pooler` or `classifier`), norms (owned by a module whose class ends in Norm),
    attention (under attention, or a bias of its scores), feed-forward (under a feed-forward network or
    MLP), embeddings (owned by `nn.Embedding`, or named so), other. A weight shared with an embedding
    counts there, once.

    Args:
        model: Any module, on any device.

    Returns: Parameters of each of `PARTS`. They add up to `count_parameters(model)`.
    Raises: TypeError if model is no module.

    >>> parameters_by_part(nn.ModuleDict({"embedding": nn.Embedding(5, 2), "norm": nn.LayerNorm(2)}))
    {'embeddings': 10, 'attention': 0, 'feed-forward': 0, 'norms': 4, 'head': 0, 'other': 0}
    """
    checks.kind("model", model, nn.Module, "an nn.Module")
    part_of: dict[nn.Parameter, str] = {}
    for path, weight in model.named_parameters(remove_duplicate=False):
        part = _part(model, path)
        if weight not in part_of or part == "embeddings":
            part_of[weight] = part
    counts = dict.fromkeys(PARTS, 0)
    for weight, part in part_of.items():
        counts[part] += weight.numel()
    return counts


def forward_flops(model: nn.Module, *inputs: Any, **named: Any) -> int:
    """Operations of one call of the model, counted one by one while it runs without numbers.

    Counted are the multiplications of matrices, 2 · rows · inner · columns each; norms, softmax,
    activations and sums are left out: they grow with d_model, not with its square. Under a causal mask
    all n² scores are counted, though a kernel may skip half of them.

    Args:
        model: Any module, on any device. It stays as it is: a copy without numbers runs.
        inputs: What the model is called with, on any device.
        named: Keyword arguments of that call.

    Raises: TypeError if model is no module.

    >>> forward_flops(nn.Linear(3, 4), torch.zeros(5, 3))
    120
    """
    checks.kind("model", model, nn.Module, "an nn.Module")
    args, kwargs = tree_map_only(Tensor, _without_numbers, (inputs, named))
    # Not on the CPU: its fused attention is a single operation there, which the counter takes for none.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _copy_without_numbers(model)(*args, **kwargs)
    return counter.get_total_flops()


def training_flops(model: nn.Module, *inputs: Any, **named: Any) -> int:
    """Operations of a training step: the forward pass and twice as many for the backward pass.

    Each product of matrices, Y = X W, has two in the backward pass: ∂L/∂W = Xᵀ ∂L/∂Y and ∂L/∂X = ∂L/∂Y Wᵀ.
    The optimizer's few operations a parameter are left out.

    Args:
        model: Any module whose weights are all trained. The 3 is exact where an embedding comes first;
            elsewhere the first product's input needs no gradient, and there is one product less.
        inputs: What the model is called with, on any device.
        named: Keyword arguments of that call.

    Raises: TypeError if model is no module.

    >>> training_flops(nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 4)), torch.tensor([1, 2]))
    144
    """
    return 3 * forward_flops(model, *inputs, **named)


def transformer_flops(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    length: int,
    vocab_size: int = 0,
    num_kv_heads: int | None = None,
    d_head: int | None = None,
    feed_forward_matrices: int = 2,
    memory_length: int = 0,
    past: int = 0,
    batch: int = 1,
) -> dict[str, int]:
    """Operations of the forward pass of one stack of blocks, by the formula.

    With n tokens and m = past + n keys, a sequence and layer has:
    projections 2 · n · d_model · d_head · (2 · num_heads + 2 · num_kv_heads); scores and values
    2 · n · m · num_heads · d_head each; feed-forward 2 · n · feed_forward_matrices · d_model · d_ff.
    Once per sequence: head 2 · n · d_model · vocab_size. An encoder-decoder is the sum of two stacks.

    Args:
        num_layers: Blocks.
        d_model: Features of each position.
        num_heads: Query heads.
        d_ff: Width of the feed-forward network.
        length: Tokens of each sequence, n.
        vocab_size: Tokens that the head chooses from; 0 without a head.
        num_kv_heads: Heads of keys and values; num_heads when None.
        d_head: Features of each head; d_model / num_heads when None.
        feed_forward_matrices: 2, or 3 in a gated network.
        memory_length: Tokens of the encoder's output, for blocks with cross-attention; 0 without.
        past: Tokens in the cache, whose keys and values are not computed again.
        batch: Sequences.

    Returns: FLOPs of projections, scores, values, feed-forward and head.
    Raises: ValueError if a size is too small, or the heads don't divide as they must.
    Source: Kaplan et al. 2020, table 1, which leaves out the norms and the like too.
    Differs: Counts both products of attention, QKᵀ and weights · V; the paper's row "Mask" has half
        of that.

    >>> flops = transformer_flops(num_layers=1, d_model=4, num_heads=1, d_ff=8, length=2)
    >>> flops
    {'projections': 256, 'scores': 32, 'values': 32, 'feed-forward': 256, 'head': 0}
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    _check_sizes(
        1, num_layers=num_layers, d_model=d_model, num_heads=num_heads, d_ff=d_ff, length=length,
        num_kv_heads=num_kv_heads, feed_forward_matrices=feed_forward_matrices, batch=batch,
    )  # fmt: skip
    _check_sizes(0, vocab_size=vocab_size, memory_length=memory_length, past=past)
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads must be a multiple of num_kv_heads; they are {num_heads} and {num_kv_heads}."
        )
    if d_head is None:
        if d_model % num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads; they are {d_model} and {num_heads}. "
                "Or give d_head."
            )
        d_head = d_model // num_heads
    _check_sizes(1, d_head=d_head)
    query_and_out, key_and_value = 2 * num_heads * d_head, 2 * num_kv_heads * d_head
    projected = length * (query_and_out + key_and_value)
    pairs = length * (past + length)
    if memory_length:
        projected += length * query_and_out + memory_length * key_and_value
        pairs += length * memory_length
    layers = 2 * batch * num_layers
    return {
        "projections": layers * projected * d_model,
        "scores": layers * pairs * num_heads * d_head,
        "values": layers * pairs * num_heads * d_head,
        "feed-forward": layers * length * feed_forward_matrices * d_model * d_ff,
        "head": 2 * batch * length * d_model * vocab_size,
    }


def six_n_d(parameters: int, tokens: int) -> int:
    """The rule of thumb for the operations of a whole training: 6 · N · D.

    Each parameter has a multiplication and an addition for each token, and twice that backward. The rule
    leaves out scores and values, 12 · num_layers · num_heads · d_head · length for each token, and counts
    norms, biases and an untied embedding, which multiply no matrix. For GPT-2 (124M) at 1,024 tokens it is
    12.6 % too low, for LLaMA-7B at 2,048 tokens 5.7 %; at short lengths it is too high.

    Args:
        parameters: N, all parameters of the model.
        tokens: D, all tokens that it is trained on, repeated ones as often as they are seen.

    Raises: ValueError if a number is below 1.
    Source: Kaplan et al. 2020, section 2.1, with N the parameters outside the embeddings.

    >>> six_n_d(6_738_415_616, 10**12)
    40430493696000000000000
    """
    _check_sizes(1, parameters=parameters, tokens=tokens)
    return 6 * parameters * tokens


def kv_cache_bytes(
    num_layers: int,
    num_kv_heads: int,
    d_head: int,
    length: int,
    batch: int = 1,
    bytes_per_number: int = 2,
) -> int:
    """Memory of the key-value cache, in bytes.

    2 · num_layers · num_kv_heads · d_head · length · batch · bytes_per_number; the 2 is one key and one value.

    Args:
        num_layers: Blocks of the decoder.
        num_kv_heads: Heads of keys and values.
        d_head: Features of each head.
        length: Tokens of each sequence.
        batch: Sequences.
        bytes_per_number: 2 in half precision, 4 in float32, 1 with 8 bits.

    Returns: The bytes.
    Raises: ValueError if a size is below 1.
    Source: Shazeer 2019, section 2.4.1, for why it is what limits decoding.

    >>> kv_cache_bytes(num_layers=32, num_kv_heads=32, d_head=128, length=1)  # LLaMA-2-7B
    524288
    """
    _check_sizes(
        1, num_layers=num_layers, num_kv_heads=num_kv_heads, d_head=d_head, length=length, batch=batch,
        bytes_per_number=bytes_per_number,
    )  # fmt: skip
    return 2 * num_layers * num_kv_heads * d_head * length * batch * bytes_per_number


def activation_bytes(model: nn.Module, *inputs: Any, **named: Any) -> int:
    """Memory that a forward pass keeps for the backward pass, in bytes, measured.

    Runs the model and adds up the storages that autograd saves, each once however many views of it are
    saved. Parameters and buffers don't count; inputs that are saved do, and so do, in training mode, the
    masks of dropout.

    Args:
        model: Any module, in the mode (`train` or `eval`) that is asked about.
        inputs: What the model is called with.
        named: Keyword arguments of that call.

    Returns: The bytes, for the kernels of the device that the model is on. On the meta device
        attention is the readable one, which keeps its n² weights; a fused kernel does not.
    Raises: TypeError if model is no module.

    >>> activation_bytes(nn.Linear(3, 4), torch.zeros(5, 3))  # the input, for the weight's gradient
    60
    """
    checks.kind("model", model, nn.Module, "an nn.Module")
    own = {_storage_id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # holds them, so that no id is given out twice

    def keep(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in own:
            saved[_storage_id(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs, **named)
    return sum(storage.nbytes() for storage in saved.values())


def training_bytes(parameters: int, bytes_per_number: int = 4) -> dict[str, int]:
    """Memory of weights, gradients and AdamW's state, in bytes; the activations come on top.

    For each parameter, in float32: weight 4 + gradient 4 + first moment 4 + second moment 4 = 16.
    In mixed precision: weight 2 + gradient 2 + moments 4 + 4 + master copy of the weight 4 = 16 too.
    A model of 7 billion parameters takes 112 GB either way; what mixed precision saves is activations.

    Args:
        parameters: Trained parameters.
        bytes_per_number: Of weights and gradients: 4 in float32, 2 in mixed precision.

    Returns: Bytes of the weights, the gradients, both moments and the master copy.
    Raises: ValueError if there are no parameters, or bytes_per_number is neither 2 nor 4.
    Source: Rajbhandari et al. 2020 (ZeRO), section 3.1; Micikevicius et al. 2018, section 3.1.
    Differs: torch's autocast keeps the weights and gradients in float32 and makes half-precision
        copies as it needs them.

    >>> sum(training_bytes(7_000_000_000, bytes_per_number=2).values())
    112000000000
    """
    _check_sizes(1, parameters=parameters, bytes_per_number=bytes_per_number)
    if bytes_per_number not in (2, 4):
        raise ValueError(
            f"bytes_per_number must be 4 (float32) or 2 (mixed precision); it is {bytes_per_number}."
        )
    return {
        "weights": bytes_per_number * parameters,
        "gradients": bytes_per_number * parameters,
        "first moment": 4 * parameters,
        "second moment": 4 * parameters,
        "master copy": 4 * parameters if bytes_per_number == 2 else 0,
    }


def _part(model: nn.Module, path: str) -> str:
    """The part of a Transformer that the weight at a path belongs to."""
    names = path.split(".")[:-1]
    modules = [model]
    for name in names:
        modules.append(getattr(modules[-1], name))
    kinds = [type(module).__name__ for module in modules]
    if any(re.search("(^|_)(head|pooler|classifier)$", name) for name in names):
        return "head"
    if kinds[-1].endswith("Norm"):
        return "norms"
    if any(re.search("(^|_)(attention|attn|bias)$", name) for name in names) or any(
        re.search("Attention|PositionBias", kind) for kind in kinds
    ):
        return "attention"
    if any(re.fullmatch("feed_forward|ffn|mlp|linear[12]", name) for name in names) or any(
        re.search("FeedForward|MLP", kind) for kind in kinds
    ):
        return "feed-forward"
    if isinstance(modules[-1], nn.Embedding) or any(
        "embedding" in name for name in path.split(".")
    ):
        return "embeddings"
    return "other"


def _copy_without_numbers(model: AnyModule) -> AnyModule:
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():  # and tensors that are neither, such as a table of angles
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    # deepcopy takes what stands in its memo for already copied: no number is copied at all.
    return copy.deepcopy(model, {id(tensor): _without_numbers(tensor) for tensor in tensors})


def _without_numbers(tensor: Tensor) -> Tensor:
    bare = torch.empty_like(tensor, device="meta")
    return nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare


def _storage_id(tensor: Tensor) -> int:
    # Not data_ptr(): on the meta device that is 0 for all.
    return tensor.untyped_storage()._cdata


def _check_sizes(least: int, **sizes: int) -> None:
    for name, size in sizes.items():
        checks.whole(name, size, least)
