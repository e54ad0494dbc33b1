"""The training loop: the loss of a batch, its gradient, a step; again and again.

What a step does depends on the weights, the optimiser's state, the seed and the step's number alone:
batches are a function of that number, and dropout is seeded by it. So a training that was killed and
resumed ends with the same weights, bit for bit.
"""

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transformer_lab import checks
from transformer_lab.training import checkpoints as saved
from transformer_lab.training.history import History
from transformer_lab.training.losses import (
    Batch,
    Loss,
    counted_targets,
    device_of,
    like,
    next_token_loss,
    on_device,
)
from transformer_lab.training.optimisers import Optimizer
from transformer_lab.training.parallel import ALONE, Alone
from transformer_lab.training.precision import FLOAT32, Precision
from transformer_lab.training.progress import Progress, Silent, automatic_progress
from transformer_lab.training.schedules import Constant, Schedule


class DivergenceError(ValueError):
    """The loss or its gradient is infinite or no number."""


class Trainer:
    """Trains a model; it holds the model, its optimiser and the history, and nothing else that changes.

    Args:
        model: Any module; it is trained where it is.
        batches: Gives the batch of each step, a tuple of tensors whose first axis is the examples.
        optimizer: Of the model's weights, from `adamw`, `muon` or torch.
        loss: Mean over the targets of a batch, in nats.
        schedule: Multiplies the optimiser's learning rates at each step.
        clip: Longest gradient, by its norm; longer ones are shortened to it. math.inf clips none.
        accumulate: Parts that a batch is cut into, one after the other, to save memory. The gradient is
            that of the whole batch: each part weighs as much as it has targets.
        precision: In which the model computes; float32 gives the same losses on all machines, to about
            six digits. `automatic_precision(device)` is quicker for wide models.
        parallel: How several processes share the work.
        seed: Of dropout.
        count: How many targets a batch has.
        progress: What is told on the way; a bar on a terminal and lines elsewhere when None.

    Attributes:
        history: What was done so far.

    Raises: TypeError or ValueError if accumulate or seed is no whole number, clip isn't above 0, or the
        optimiser trains other weights than the model's.
    Source: Pascanu et al. 2013, algorithm 1 (clipping).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], Any],
        *,
        optimizer: Optimizer,
        loss: Loss = next_token_loss,
        schedule: Schedule = Constant(),  # noqa: B008 - frozen
        clip: float = 1.0,
        accumulate: int = 1,
        precision: Precision = FLOAT32,
        parallel: Alone = ALONE,
        seed: int = 0,
        count: Callable[[Any], int] = counted_targets,
        progress: Progress | None = None,
    ) -> None:
        checks.whole("accumulate", accumulate)
        checks.whole("seed", seed, 0)
        if not clip > 0:
            raise ValueError(f"clip must be above 0; it is {clip!r}. math.inf clips nothing.")
        known = {id(weight) for weight in model.parameters()}
        trained = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not all(id(weight) in known for weight in trained):
            raise ValueError(
                "the optimizer trains weights that aren't the model's. Make it after the model is "
                "complete: adamw(model, ...)."
            )
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.model, self.batches, self.optimizer = model, batches, optimizer
        self.loss, self.schedule, self.clip, self.count = loss, schedule, clip, count
        self.accumulate, self.precision, self.seed = accumulate, precision, seed
        self.parallel, self.progress = parallel, progress
        self.history = History()
        self._wrapped = parallel.wrap(model)
        self._weights = trained

    def fit(
        self,
        steps: int,
        *,
        validate: Callable[[nn.Module], float] | None = None,
        every: int = 100,
        checkpoints: saved.Checkpoints | None = None,
    ) -> History:
        """Train until `steps` steps were done in all, those before a resume included.

        Args:
            steps: In all; nothing happens if so many were done already.
            validate: Called with the model in `eval` mode, without gradients; gives a loss.
            every: Steps from one validation to the next; there is one at the end in any case.
            checkpoints: Where and how often to save; not at all when None.

        Returns: The history, which is also `trainer.history`.
        Raises: DivergenceError (a ValueError) if loss or gradient is infinite or no number: the step isn't
            taken, and the last checkpoint is as it was. ValueError if the folder of the checkpoints holds
            a longer training. OSError if a checkpoint can't be saved.
        """
        checks.whole("steps", steps, 0)
        checks.whole("every", every)
        self._check_folder(checkpoints)
        progress = self._progress()
        modes = [(module, module.training) for module in self.model.modules()]
        with _own_random_numbers(device_of(self.model)):
            try:
                self._wrapped.train()
                self.optimizer.zero_grad()  # of what an interrupted step may have left
                progress.start(self.history.next_step, steps)
                for step in range(self.history.next_step, steps):
                    loss = self.step()
                    done = step + 1
                    validation = None
                    if validate is not None and (done % every == 0 or done == steps):
                        validation = self._validate(validate, done)
                    if checkpoints and (done % checkpoints.every == 0 or done == steps):
                        self.save(checkpoints)
                    progress.step(done, loss, validation)
            finally:
                progress.end()
                for module, mode in modes:
                    module.training = mode
        return self.history

    def step(self) -> float:
        """Do the next step; `fit` does many, and sees to mode and random numbers.

        Returns: The loss of its batch before the step, in nats for each target.
        Raises: DivergenceError (a ValueError) if loss or gradient is infinite or no number.
        """
        step = self.history.next_step
        batch = self.batches(step)
        targets = self.count(batch)
        if not targets:
            raise ValueError(
                f"the batch of step {step} must hold at least one target that counts; it holds none."
            )
        rate = self._set_rates(step)
        loss = self.parallel.total(self._backward(step, batch, targets))
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        # One look at the device for both: each makes it wait.
        loss_now, norm_now = torch.stack((loss, norm.to(loss))).tolist()
        if not math.isfinite(loss_now) or not math.isfinite(norm_now):
            self.optimizer.zero_grad()
            raise DivergenceError(_diverged(step, rate, loss_now, norm_now))
        if norm_now > self.clip:
            torch._foreach_mul_(gradients, self.clip / norm_now)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seen = self.history.tokens[-1] if self.history.tokens else 0
        self.history.steps.append(step)
        self.history.losses.append(loss_now)
        self.history.learning_rates.append(rate)
        self.history.gradient_norms.append(norm_now)
        self.history.tokens.append(seen + targets)
        return loss_now

    def save(self, checkpoints: saved.Checkpoints) -> None:
        """Save the training as it is now.

        Args:
            checkpoints: Where, and how many to keep.

        Raises: OSError if it can't be written; what was saved before is still there.
        """
        weights = self.parallel.gather(_bare(self.model).state_dict())
        state = self.parallel.gather(self.optimizer.state_dict())
        if self.parallel.rank == 0:
            rest = {"seed": self.seed, "history": self.history.to_json()}
            step = self.history.next_step
            saved.save(checkpoints.folder, step, weights, state, rest, keep=checkpoints.keep)
        self.parallel.wait()

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Take up a training that was saved: weights, optimiser (learning rates too) and history.

        Args:
            path: A checkpoint, as `latest(folder)` gives it.

        Raises: ValueError if it is damaged, or was saved with another model, optimiser or seed.
        """
        checkpoint = saved.load(path)
        if checkpoint.rest.get("seed") != self.seed:
            raise ValueError(
                f"the training was begun with seed={checkpoint.rest.get('seed')!r}; this trainer has "
                f"seed={self.seed}. Give it the same."
            )
        model = _bare(self.model)
        try:
            kept = model.state_dict()
            model.load_state_dict(self.parallel.spread(checkpoint.weights, kept))
            self.optimizer.load_state_dict(self._spread_optimizer(checkpoint.optimizer))
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"the checkpoint {path} doesn't fit this model or optimizer; it was saved with others: "
                f"{' '.join(str(error).split()):.300}"
            ) from error
        self.history = History.from_json(checkpoint.rest["history"])

    def _backward(self, step: int, batch: Batch, targets: int) -> Tensor:
        """Adds up the gradient of this process's share; returns its share of the loss."""
        device = device_of(self.model)
        parallel, number = self.parallel, self.accumulate
        share = torch.zeros((), device=device)
        parts = _cut(batch, parallel.size * number)
        own = parts[parallel.rank * number : (parallel.rank + 1) * number]
        for index, part in enumerate(own):
            weight = self.count(part) / targets
            _seed(device, _mixed(self.seed, step, parallel.rank * number + index))
            with parallel.accumulating(self._wrapped, last=index == number - 1):
                with self.precision.context(device):
                    loss = self.loss(self._wrapped, on_device(part, device))
                # Processes average their gradients; the sum is wanted.
                (loss * (weight * parallel.size)).backward()
            share += loss.detach().float() * weight
        return share

    def _set_rates(self, step: int) -> float:
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def _validate(self, validate: Callable[[nn.Module], float], done: int) -> float:
        self._wrapped.eval()
        with torch.no_grad(), self.precision.context(device_of(self.model)):
            validation = float(validate(self.model))
        self._wrapped.train()
        self.history.validation_steps.append(done)
        self.history.validation_losses.append(validation)
        return validation

    def _progress(self) -> Progress:
        if self.parallel.rank != 0:
            return Silent()
        return automatic_progress() if self.progress is None else self.progress

    def _check_folder(self, checkpoints: saved.Checkpoints | None) -> None:
        newest = None if checkpoints is None else saved.latest(checkpoints.folder)
        if newest is not None and saved.step_of(newest) > self.history.next_step:
            raise ValueError(
                f"{newest.parent} holds a training of {saved.step_of(newest)} steps, and this one has done "
                f"{self.history.next_step}. Go on with it by trainer.resume(latest(folder)), or save "
                "into another folder."
            )

    def _spread_optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        if "param_groups" not in state or not isinstance(self.optimizer, torch.optim.Optimizer):
            return state
        groups = zip(state["param_groups"], self.optimizer.param_groups, strict=True)
        weights = {
            number: weight
            for group, own in groups
            for number, weight in zip(group["params"], own["params"], strict=True)
        }
        each = {
            number: self.parallel.spread(values, dict.fromkeys(values, weights[number]))
            for number, values in state["state"].items()
        }
        return {**state, "state": each}


def _cut(batch: Batch, number: int) -> list[Batch]:
    if number == 1:
        return [batch]
    examples = len(batch[0])
    if examples < number:
        raise ValueError(
            f"a batch must hold an example for each of its {number} parts (accumulate · processes); it "
            f"holds {examples}."
        )
    return [
        like(batch, parts) for parts in zip(*(p.tensor_split(number) for p in batch), strict=True)
    ]


def _mixed(seed: int, step: int, part: int) -> int:
    # From a text: seed 0 at step 1 must not be seed 1 at step 0.
    return random.Random(f"{seed}/{step}/{part}").getrandbits(63)


def _seed(device: torch.device, number: int) -> None:
    # torch.manual_seed seeds every kind of device, those that there aren't too, which takes a hundred
    # times as long.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leaves the caller's random numbers as they were."""
    # torch can set aside those of the CPU and of CUDA; another accelerator's are left changed.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _bare(model: nn.Module) -> nn.Module:
    """What torch.compile wrapped: names of weights are to be the same with and without it."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


def _diverged(step: int, rate: float, loss: float, norm: float) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    return (
        f"{what} at step {step}, with the learning rate {rate:.3g}; the step was not taken. Try a lower "
        "learning rate, a longer warm-up or a smaller clip, from the last checkpoint on: "
        "trainer.resume(latest(folder)). If it happens at once, look for a division by 0 or a row "
        "without anything to attend to."
    )
