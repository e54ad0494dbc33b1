"""Questions that every block asks of its arguments; each answers with what was expected and what came."""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind")


def check_whole(name: str, number: int, least: int = 1) -> None:
    """Refuse what is not a whole number from `least` on."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(
            f"{name} must be a whole number; it is {number!r} ({type(number).__name__})."
        )
    if number < least:
        raise ValueError(f"{name} must be at least {least}; it is {number}.")


def check_above(name: str, number: float, bound: float = 0) -> None:
    """Refuse what is not a finite number above `bound`."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number; it is {number!r} ({type(number).__name__}).")
    if not bound < number < math.inf:
        raise ValueError(f"{name} must be above {bound} and finite; it is {number}.")


def check_probability(name: str, number: float) -> None:
    """Refuse what is no probability below 1: with 1 nothing would be left."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number; it is {number!r} ({type(number).__name__}).")
    if not 0 <= number < 1:
        raise ValueError(f"{name} is a probability, from 0 to below 1; it is {number}.")


def check_kind(name: str, value: Kind, kind: Any, what: str) -> Kind:
    """Refuse what is not of a class, and return what is."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}; it is a {type(value).__name__}.")
    return value


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse what is no tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor; it is a {type(tensor).__name__}. "
            "torch.tensor(...) makes one of numbers."
        )


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse what is no tensor of floating-point numbers."""
    check_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} must hold floating-point numbers; it holds {tensor.dtype}. "
            "Token ids have to be embedded first."
        )


def check_whole_tensor(name: str, tensor: Tensor) -> None:
    """Refuse what is no tensor of integers."""
    check_tensor(name, tensor)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers; it holds {tensor.dtype}.")


def check_features(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Refuse vectors that don't go through a layer: its weight has as many features in its last axis."""
    check_floating(name, tensor)
    if not tensor.dim() or tensor.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{name} must hold vectors of {weight.shape[-1]} features, along its last axis; "
            f"its shape is {tuple(tensor.shape)}."
        )
    check_device(name, tensor, "the weights", weight)


def check_projected(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Refuse vectors that a linear layer doesn't take."""
    check_features(name, tensor, weight)
    if tensor.dtype != weight.dtype:
        check_alike(name, tensor, "the weights", weight)


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse floating-point numbers that are kept in two places, or in two dtypes; autocast joins those."""
    check_floating(name, tensor)
    check_device(name, tensor, other_name, other)
    kind = tensor.device.type
    if tensor.dtype != other.dtype and (kind == "meta" or not torch.is_autocast_enabled(kind)):
        dtypes = f"{name} has {tensor.dtype}, {other_name} {other.dtype}"
        raise ValueError(f"{name} and {other_name} must have one dtype: {dtypes}. Convert one.")


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse tensors that are kept in two places."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device: {name} is on {tensor.device}, "
            f"{other_name} on {other.device}. Move one with `.to(...)`."
        )
