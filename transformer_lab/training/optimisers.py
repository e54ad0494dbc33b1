"""AdamW and Muon, with the weights sorted into those that decay and those that don't.

`adamw(model, lr)` and `muon(model, lr)` make an optimiser for a whole model. Both can be given the same
learning rate and weight decay.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_lab.training.precision import FLOAT32, Precision


class Optimizer(Protocol):
    """What the training loop asks of an optimiser; every torch.optim.Optimizer has it."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    def step(self) -> Any: ...
    def zero_grad(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def adamw(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW that decays matrices, not biases and the gains of norms.

    Embeddings decay too, as in GPT: the paper leaves out only biases and gains, and where the head is
    the embedding it is a matrix like the others. A gain that decayed would be drawn to 0, where a norm
    lets nothing pass.

    Args:
        model: Its weights that require a gradient are trained.
        lr: Learning rate, which a schedule multiplies.
        weight_decay: Share of a weight that is taken off at each step, before lr is multiplied in.
        betas: Memory of the first and of the second moment.
        eps: Added to the root of the second moment.

    Raises: ValueError if the model has no weights to train, or a number is out of range.
    Source: Loshchilov and Hutter 2019, algorithm 2; what decays: Radford et al. 2018, section 4.1;
        betas: Brown et al. 2020, appendix B.

    >>> groups = adamw(nn.Linear(3, 2), 1e-3).param_groups
    >>> [(group["weight_decay"], len(group["params"])) for group in groups]
    [(0.1, 1), (0.0, 1)]
    """
    return _adamw(_trained(model), lr, weight_decay, betas, eps)


def muon(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    hidden: Callable[[nn.Module], Sequence[nn.Parameter]] | None = None,
    precision: Precision = FLOAT32,
) -> "Together":
    """Muon for the matrices within the blocks, AdamW for embeddings, head, norms and biases.

    Args:
        model: Its weights that require a gradient are trained.
        lr: Learning rate of both: Muon's steps are as long as AdamW's (see `like_adamw`).
        weight_decay: As in `adamw`; of Muon's matrices too.
        momentum: Muon's memory.
        betas: AdamW's memory.
        eps: Added to AdamW's root of the second moment.
        hidden: Says which matrices Muon gets; `hidden_matrices` when None.
        precision: In which Muon orthogonalises; bfloat16 takes half the time where the device has it.

    Raises: ValueError if there is no matrix for Muon, or a number is out of range.
    Source: Jordan et al. 2024 (who gets Muon); Liu et al. 2025, section 2.2 (decay, length of a step).
    """
    trained = _trained(model)
    known = {id(weight) for weight in trained}
    matrices = [w for w in (hidden or hidden_matrices)(model) if id(w) in known]
    if not matrices:
        raise ValueError(
            "Muon needs matrices within blocks, and found none in an nn.ModuleList. Name them with "
            "hidden=…, or use adamw."
        )
    own = {id(weight) for weight in matrices}
    rest = [weight for weight in trained if id(weight) not in own]
    first = Muon(matrices, lr, weight_decay=weight_decay, momentum=momentum, precision=precision)
    return Together(first, *([_adamw(rest, lr, weight_decay, betas, eps)] if rest else []))


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices within a model's blocks: two axes, in an nn.ModuleList, and no embedding.

    What stands outside (embeddings, head) turns tokens into vectors or back, one row for each token;
    there the steps of Muon, equal in all directions, do worse than Adam's.

    Args:
        model: Any module whose blocks are in an nn.ModuleList.

    Source: Jordan et al. 2024, "Which parameters".
    """
    found: dict[int, nn.Parameter] = {}
    for blocks in model.modules():
        if not isinstance(blocks, nn.ModuleList):
            continue
        for module in blocks.modules():
            if not isinstance(module, nn.Embedding):
                for weight in module.parameters(recurse=False):
                    if weight.dim() == 2:
                        found[id(weight)] = weight
    return list(found.values())


def orthogonalise(
    matrices: Float[Tensor, "*batch rows columns"], steps: int = 5, eps: float = 1e-7
) -> Float[Tensor, "*batch rows columns"]:
    """Makes all singular values about 1, without a singular value decomposition.

    X ← X / ‖X‖; then, `steps` times, X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ and (a, b, c) = (3.4445,
    -4.7750, 2.0315). Each singular value goes s → a·s + b·s³ + c·s⁵, whose steep start lifts small ones
    quickly; in the end they lie between about 0.7 and 1.2, near enough.

    Args:
        matrices: One or many of the same shape, which are then multiplied together.
        steps: How often.
        eps: Least norm that is divided by.

    Returns: About U·Vᵀ, where U·S·Vᵀ is the matrix.
    Raises: ValueError if there are fewer than two axes, no floating-point numbers, or steps is below 1.
    Source: Jordan et al. 2024, "Newton-Schulz".

    >>> orthogonalise(torch.diag(torch.tensor([3.0, 2.0]))).round(decimals=1).abs()
    tensor([[1.1000, 0.0000],
            [0.0000, 0.7000]])
    """
    if matrices.dim() < 2 or not matrices.is_floating_point():
        raise ValueError(
            f"matrices must be floating-point numbers with at least two axes; they have shape "
            f"{tuple(matrices.shape)} and hold {matrices.dtype}."
        )
    if steps < 1:
        raise ValueError(f"steps must be at least 1; it is {steps}.")
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # A is the smaller of the two products
    x = x.reshape(-1, *x.shape[-2:])
    # The Frobenius norm is at least the largest singular value.
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)


def like_adamw(rows: int, columns: int) -> float:
    """0.2 · √max(rows, columns): a step as long as AdamW's, so that lr and weight decay can be shared.

    An orthogonal matrix has entries of 1/√max(rows, columns) in the root of the mean square; AdamW's steps
    are found to have 0.2 to 0.4.

    Args:
        rows: Outputs of the matrix.
        columns: Its inputs.

    Source: Liu et al. 2025, section 2.2, equation 4.

    >>> like_adamw(100, 25)
    2.0
    """
    return 0.2 * max(rows, columns) ** 0.5


def by_shape(rows: int, columns: int) -> float:
    """√max(1, rows / columns): the first Muon's scale, whose learning rate is about 0.02.

    Args:
        rows: Outputs of the matrix.
        columns: Its inputs.

    Source: Jordan et al. 2024, the authors' code.

    >>> by_shape(100, 25), by_shape(25, 100)
    (2.0, 1.0)
    """
    return max(1.0, rows / columns) ** 0.5


class Muon(torch.optim.Optimizer):
    """Steps that are equally long in every direction of a matrix.

    M ← momentum·M + (1 - momentum)·G; O = orthogonalise(momentum·M + (1 - momentum)·G);
    W ← (1 - lr·weight_decay)·W - lr·scale(rows, columns)·O.

    Args:
        matrices: Weights with two axes.
        lr: Learning rate.
        weight_decay: Share of a weight that is taken off, before lr is multiplied in.
        momentum: Memory of the gradient, from 0 to below 1.
        steps: Of the orthogonalisation.
        scale: Length of a step, from the matrix's shape: `like_adamw` or `by_shape`.
        precision: Of the orthogonalisation.

    Raises: ValueError if a weight is no matrix, or a number is out of range.
    Source: Jordan et al. 2024, algorithm 2 with Nesterov's momentum. Differs: weight decay and scale of
        Liu et al. 2025. torch.optim.Muon computes the same, one matrix after the other in bfloat16.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        steps: int = 5,
        scale: Callable[[int, int], float] = like_adamw,
        precision: Precision = FLOAT32,
    ) -> None:
        _check_numbers(lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie from 0 to below 1; it is {momentum!r}.")
        matrices = list(matrices)
        for weight in matrices:
            if weight.dim() != 2:
                raise ValueError(
                    f"Muon trains matrices; a weight has shape {tuple(weight.shape)}. Give it to AdamW."
                )
            if hasattr(weight, "device_mesh"):
                raise ValueError(
                    "Muon needs whole matrices; these are spread over processes. Use adamw, or train "
                    "with copies of the model (Replicated) in place of parts (Sharded)."
                )
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._steps, self._scale, self._dtype = steps, scale, precision.dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change each matrix that has a gradient.

        Args:
            closure: Not supported; must be None.
        """
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            lr, momentum = group["lr"], group["momentum"]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            gradients = [weight.grad for weight in weights]
            memories = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_lerp_(memories, gradients, 1 - momentum)
            updates = torch._foreach_lerp(gradients, memories, momentum)
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            alike: dict[Any, list[int]] = {}
            for number, weight in enumerate(weights):
                alike.setdefault((weight.shape, weight.dtype, weight.device), []).append(number)
            for (shape, dtype, _), numbers in alike.items():
                stacked = torch.stack([updates[number] for number in numbers])
                if dtype == torch.float32:
                    stacked = stacked.to(self._dtype)
                ends = orthogonalise(stacked, self._steps).to(dtype).unbind()
                length = lr * self._scale(*shape)
                torch._foreach_add_([weights[number] for number in numbers], ends, alpha=-length)


class Together:
    """Several optimisers, each with its own weights, that are used as one.

    Args:
        optimizers: At least one.

    Raises: ValueError if there is none, or a weight belongs to two.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        weights = [
            id(weight)
            for each in optimizers
            for group in each.param_groups
            for weight in group["params"]
        ]
        if not optimizers or len(set(weights)) != len(weights):
            raise ValueError(
                f"there must be at least one optimizer, and no weight in two; there are "
                f"{len(optimizers)}, with {len(weights) - len(set(weights))} weights twice."
            )
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all; a learning rate that is set there holds."""
        return [group for each in self.optimizers for group in each.param_groups]

    def step(self) -> None:
        """Change all weights."""
        for each in self.optimizers:
            each.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for each in self.optimizers:
            each.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, numbered."""
        return {str(number): each.state_dict() for number, each in enumerate(self.optimizers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Args:
            state_dict: Of the same number of optimisers.

        Raises: ValueError if it is of another number.
        """
        if len(state_dict) != len(self.optimizers):
            raise ValueError(
                f"the state must be of {len(self.optimizers)} optimizers; it is of {len(state_dict)}. "
                "Was it saved with another one?"
            )
        for number, each in enumerate(self.optimizers):
            each.load_state_dict(state_dict[str(number)])


def _adamw(
    weights: Sequence[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    _check_numbers(lr=lr, weight_decay=weight_decay, eps=eps)
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(w.device.type in ("cpu", "cuda", "mps") for w in weights)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr, betas=betas, eps=eps, fused=fused
    )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module; it is a {type(model).__name__}.")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError(
            "the model has no weight that requires a gradient; there is nothing to train."
        )
    return weights


def _check_numbers(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be a number from 0 up; it is {number!r}.")
