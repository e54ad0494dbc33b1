"""Every exercise: the reference passes, each wrong answer gets its own diagnosis, alternatives pass."""

import pytest
import torch
from torch.nn import functional as F

from transformer_lab.checking.diagnosis import parameters
from transformer_lab.checking.engine import examine
from transformer_lab.checking.exercise import Exercise, Wrong
from transformer_lab.checking.registry import exercises

ALL = tuple(exercises().values())
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong_answers]
RIGHT = [(exercise, i) for exercise in ALL for i in range(len(exercise.correct_alternatives))]


@pytest.mark.parametrize(
    ("exercise", "wrong"),
    WRONG,
    ids=[f"{exercise.name}: {wrong.name}" for exercise, wrong in WRONG],
)
def test_wrong_answer_gets_its_own_diagnosis(exercise: Exercise, wrong: Wrong) -> None:
    result = examine(wrong.answer, exercise)
    assert result.status == "fail", result
    assert result.diagnosis.startswith(wrong.says), result


@pytest.mark.parametrize(
    ("exercise", "index"), RIGHT, ids=[f"{exercise.name}: {index}" for exercise, index in RIGHT]
)
def test_correct_alternative_passes(exercise: Exercise, index: int) -> None:
    result = examine(exercise.correct_alternatives[index], exercise)
    assert result.status == "pass", result


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_exercise_is_complete(exercise: Exercise) -> None:
    assert exercise.signature.startswith(exercise.name + "(")
    assert parameters(exercise.signature), "an exercise takes at least one argument"
    assert len(exercise.wrong_answers) >= 5
    assert len({wrong.name for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)
    assert len({wrong.says for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)
    assert len(set(exercise.hints)) == 3


def attention_by_torch(q, k, v, mask=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, mask), scores.softmax(-1)


def backward_by_torch(q, k, v, grad_out):
    inputs = [each.clone().requires_grad_() for each in (q, k, v)]
    weights = (inputs[0] @ inputs[1].mT / q.shape[-1] ** 0.5).softmax(-1)
    return torch.autograd.grad(weights @ inputs[2], inputs, grad_out)


def layer_norm_backward_by_torch(x, gamma, grad_out, eps=1e-5):
    inputs = [each.clone().requires_grad_() for each in (x, gamma, 0 * gamma)]
    out = F.layer_norm(inputs[0], gamma.shape, *inputs[1:], eps)
    return torch.autograd.grad(out, inputs, grad_out)


def update_running_by_torch(running_mean, running_var, x, momentum=0.1):
    mean, var = running_mean.clone(), running_var.clone()
    F.batch_norm(x, mean, var, training=True, momentum=momentum)
    return mean, var


def linear_backward_by_torch(x, weight, grad_out):
    inputs = [each.clone().requires_grad_() for each in (x, weight)]
    return torch.autograd.grad(F.linear(*inputs), inputs, grad_out)


def relu_backward_by_torch(x, grad_out):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.relu(x), x, grad_out)[0]


BY_TORCH = {
    "softmax": lambda x, dim=-1: F.softmax(x, dim),
    "log_softmax": lambda x, dim=-1: x.log_softmax(dim),
    "cross_entropy": lambda logits, targets, ignore_index=-100: F.cross_entropy(
        logits, targets, ignore_index=ignore_index
    ),
    "entropy": lambda probs: torch.special.entr(probs).sum(-1),
    "attention": attention_by_torch,
    "attention_backward": backward_by_torch,
    "layer_norm": lambda x, gamma, beta, eps=1e-5: F.layer_norm(x, gamma.shape, gamma, beta, eps),
    "layer_norm_backward": layer_norm_backward_by_torch,
    "rms_norm": lambda x, gain, eps=1e-5: F.rms_norm(x, gain.shape, gain, eps),
    "batch_norm_train": lambda x, gamma, beta, eps=1e-5: (
        F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps),
        x.mean(0),
        x.var(0, correction=0),
    ),
    "update_running": update_running_by_torch,
    "gelu": lambda x: F.gelu(x),
    "linear_backward": linear_backward_by_torch,
    "relu_backward": relu_backward_by_torch,
}


def test_each_forbidden_built_in_is_tried_below():
    assert set(BY_TORCH) == {exercise.name for exercise in ALL if exercise.built_ins}


@pytest.mark.parametrize("name", BY_TORCH)
def test_built_in_is_seen(name: str) -> None:
    result = examine(BY_TORCH[name], exercises()[name])
    assert result.status == "fail", result
    assert "torch" in result.diagnosis or "autograd" in result.diagnosis, result


def test_the_course_is_large_enough() -> None:
    assert len(ALL) >= 12
    assert len(WRONG) >= 80
    assert len(RIGHT) >= 25
