"""Saves a training so that nothing that was saved is lost: not by a kill, a full disk or a torn file.

A checkpoint is a folder `step-00000100` with weights.safetensors, optimizer.safetensors and
training.json. It is written under another name and gets its own when all of it is on the disk.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from transformer_lab import checks

_WEIGHTS, _OPTIMIZER, _REST = "weights.safetensors", "optimizer.safetensors", "training.json"
# `.old`: a checkpoint that is about to be replaced by another one of the same step.
_NAME = re.compile(r"step-(\d{8,})(\.old)?")


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on.

    Attributes:
        step: How many steps were done.
        weights: The model's state_dict.
        optimizer: The optimiser's state_dict.
        rest: What else was saved, as JSON gives it back.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    rest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a training saves itself, how often, and how many checkpoints it keeps.

    Args:
        folder: Where; it is made when first needed.
        every: Steps from one checkpoint to the next; there is one at the end in any case.
        keep: How many of the newest to keep. With 2, there is another one should the newest be damaged.

    Raises: TypeError or ValueError if every or keep is no whole number from 1 up.
    """

    folder: str | os.PathLike[str]
    every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        checks.whole("every", self.every, 1)
        checks.whole("keep", self.keep, 1)


def save(
    folder: str | os.PathLike[str],
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    rest: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint; only when it is complete are older ones removed.

    One process at a time may save into a folder.

    Args:
        folder: Where the checkpoints are.
        step: How many steps were done.
        weights: The model's state_dict.
        optimizer: The optimiser's state_dict: dicts, lists, tuples, tensors and what JSON can hold.
        rest: Anything that JSON can hold.
        keep: How many of the newest to keep, this one among them.

    Returns: The checkpoint's folder.
    Raises: OSError if it can't be written, as on a full disk: what was saved before is still there.
        TypeError if something can't be saved.
    """
    checks.whole("step", step, 0)
    checks.whole("keep", keep, 1)
    folder = Path(folder)
    final = folder / f"step-{step:08d}"
    unfinished = folder / f".{final.name}.{os.getpid()}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        unfinished.mkdir()
        _write(unfinished, step, weights, optimizer, rest)
        _put(unfinished, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # first of all: it may be what fills the disk
        raise _explained(error, final) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint in a folder; what is only half written is none.

    Args:
        folder: Where checkpoints are saved; it need not exist.

    Returns: The checkpoint's folder; None if there is none.

    >>> latest("no_such_folder") is None
    True
    """
    return next(reversed(_all(Path(folder))), None)


def step_of(path: str | os.PathLike[str]) -> int:
    """How many steps were done when a checkpoint was saved, by its name.

    Args:
        path: Its folder.

    Raises: ValueError if it is no checkpoint's name.

    >>> step_of("runs/step-00000100")
    100
    """
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(f"a checkpoint's name is like step-00000100; it is {Path(path).name!r}.")
    return int(match[1])


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and make sure that it is what was written.

    Args:
        path: Its folder, as `latest` or `save` gives it.

    Returns: The checkpoint, its tensors on the CPU.
    Raises: ValueError if there is none, or it is damaged: then the message names the one before.
    """
    path = Path(path)
    if not path.is_dir():
        near = latest(path.parent)
        mend = f" The newest in {path.parent} is {near.name}." if near else ""
        raise ValueError(f"there is no checkpoint {path}.{mend}")
    try:
        written = json.loads((path / _REST).read_text(encoding="utf-8"))
        content = written["content"]
        if _digest(json.dumps(content).encode()) != written["digest"]:
            raise ValueError(f"{_REST} isn't as it was written")
        for name, (size, digest) in content["files"].items():
            if (path / name).stat().st_size != size:
                now = (path / name).stat().st_size
                raise ValueError(f"{name} should have {size} bytes and has {now}")
            if _file_digest(path / name) != digest:
                raise ValueError(f"{name} isn't as it was written")
        weights, optimizer = load_file(path / _WEIGHTS), load_file(path / _OPTIMIZER)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(_damaged(path, error)) from error
    return Checkpoint(
        step=content["step"],
        weights=_join(content["weights"], weights),
        optimizer=_join(content["optimizer"], optimizer),
        rest=content["rest"],
    )


def _write(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    rest: Mapping[str, Any],
) -> None:
    content: dict[str, Any] = {"step": step, "rest": dict(rest), "files": {}}
    for name, part, tree in (("weights", _WEIGHTS, weights), ("optimizer", _OPTIMIZER, optimizer)):
        tensors: dict[str, Tensor] = {}
        content[name] = _part(tree, name, tensors, {})
        save_file(tensors, folder / part)
        _flush(folder / part)
        content["files"][part] = [(folder / part).stat().st_size, _file_digest(folder / part)]
    content = json.loads(json.dumps(content))  # as it will be read
    text = json.dumps({"digest": _digest(json.dumps(content).encode()), "content": content})
    (folder / _REST).write_text(text, encoding="utf-8")
    _flush(folder / _REST)
    _flush(folder)


def _put(unfinished: Path, final: Path) -> None:
    """Give it its name, in one stroke where the name is free."""
    aside = final.with_name(f"{final.name}.old")
    if final.exists():
        if aside.exists():
            shutil.rmtree(aside)
        final.replace(aside)
    unfinished.replace(final)
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """Complete checkpoints, the newest last."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / _REST).is_file():
            found.append((int(match[1]), match[2] is None, path))
    return [path for *_, path in sorted(found)]


def _sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for path in folder.glob(".step-*.unfinished"):
        shutil.rmtree(path, ignore_errors=True)


def _part(tree: Any, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """What JSON can hold of a tree; its tensors go into `tensors`, each once."""
    if isinstance(tree, Tensor):
        tensor = tree.detach().cpu()
        # Tied weights stand twice in a state_dict and share their memory.
        place = (tree.device, tree.data_ptr(), tree.dtype, tree.shape, tree.stride())
        key = seen.setdefault(place, name) if tree.numel() else name
        if key == name:
            storage = ("storage", tree.device, tree.untyped_storage().data_ptr())
            tensors[name] = tensor.clone() if storage in seen else tensor.contiguous()
            seen[storage] = name
        return {"tensor": key}
    if isinstance(tree, Mapping):
        return {
            "items": [
                [key, _part(value, f"{name}.{key}", tensors, seen)] for key, value in tree.items()
            ]
        }
    if isinstance(tree, list | tuple):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {
            kind: [
                _part(value, f"{name}.{number}", tensors, seen) for number, value in enumerate(tree)
            ]
        }
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(
        f"{name} can't be saved: it is a {type(tree).__name__}; tensors, numbers, text, dicts, lists "
        "and tuples can."
    )


def _join(part: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, inner),) = part.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "items":
        return {key: _join(value, tensors) for key, value in inner}
    if kind == "value":
        return inner
    values = [_join(value, tensors) for value in inner]
    return tuple(values) if kind == "tuple" else values


def _flush(path: Path) -> None:
    """Wait until it is on the disk, where the system can say so."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def _explained(error: Exception, final: Path) -> OSError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    why = "the disk is full: make room" if full else str(error)
    before = latest(final.parent)
    kept = f"{before.name} is as it was" if before else "there was none before"
    number = getattr(error, "errno", None) or (errno.ENOSPC if full else errno.EIO)
    return OSError(number, f"{final} could not be saved ({why}); {kept}")


def _damaged(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        error = ValueError(f"{Path(error.filename).name} is missing")
    others = [each for each in _all(path.parent) if each.name < path.name]
    mend = f"Load the one before it: {others[-1]}." if others else "There is none before it."
    return f"the checkpoint {path} is damaged: {error}. {mend}"
