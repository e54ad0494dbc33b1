"""Checkpoints come back as they were, and outlive kills, full disks and torn files."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transformer_lab.training import Checkpoints, checkpoints, latest, load, save, step_of

WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(2).bfloat16()}
STATE = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95)}]}


def put(folder, step, **rest):
    return save(folder, step, {"w": torch.full((50,), float(step))}, STATE, {"step": step, **rest})


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(equal, one, other))
    return one == other and type(one) is type(other)


def test_all_comes_back_with_its_types(tmp_path):
    rest = {"seed": 7, "losses": [0.1, 1e-300, 1 / 3], "name": "a – b", "none": None}
    path = save(tmp_path, 12, WEIGHTS, STATE, rest)
    checkpoint = load(path)
    assert checkpoint.step == 12
    assert equal(checkpoint.weights, WEIGHTS)
    assert equal(checkpoint.optimizer, STATE)
    assert equal(checkpoint.rest, rest)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
leaves |= st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(tree=trees)
@settings(max_examples=25, deadline=None)
def test_any_tree_comes_back(tree, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("tree"), 0, {}, {"tree": tree}, {})
    assert equal(load(path).optimizer, {"tree": tree})


def test_tied_and_transposed_weights_come_back(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    weights = {**model.state_dict(), "turned": torch.arange(6.0).view(2, 3).T}
    storage = torch.arange(4.0)
    weights |= {"first": storage[:2], "second": storage[2:], "empty": torch.zeros(0, 3)}
    path = save(tmp_path, 0, weights, {}, {})
    assert equal(load(path).weights, dict(weights))


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 30, 100_000_000):
        put(tmp_path, step)
    assert names(tmp_path) == ["step-00000030", "step-100000000"]
    assert step_of(latest(tmp_path)) == 100_000_000


def test_an_older_one_is_removed_only_after_the_new_one_stands(tmp_path, monkeypatch):
    put(tmp_path, 1)
    put(tmp_path, 2)
    seen = []
    rmtree = checkpoints.shutil.rmtree

    def watch(path, **rest):
        if Path(path).exists():
            seen.append((Path(path).name, load(latest(tmp_path)).step))
        rmtree(path, **rest)

    monkeypatch.setattr(checkpoints.shutil, "rmtree", watch)
    put(tmp_path, 3)
    assert seen == [("step-00000001", 3)]


def test_what_is_half_written_is_none(tmp_path):
    path = put(tmp_path, 1)
    for name in (".step-00000002.77.unfinished", "step-00000003", "notes", "step-4"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) == path
    put(tmp_path, 5)
    assert ".step-00000002.77.unfinished" not in names(tmp_path)
    assert latest(tmp_path / "none") is None


def test_the_same_step_again_replaces(tmp_path):
    put(tmp_path, 1, turn="first")
    put(tmp_path, 1, turn="second")
    assert load(latest(tmp_path)).rest["turn"] == "second"
    assert names(tmp_path) == ["step-00000001"]


def test_the_same_step_again_loses_nothing_when_killed_between(tmp_path, monkeypatch):
    put(tmp_path, 1, turn="first")
    replace = Path.replace

    def killed(self, target):
        if "unfinished" in self.name:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, 1, turn="second")
    monkeypatch.undo()
    assert load(latest(tmp_path)).rest["turn"] == "first"
    assert step_of(latest(tmp_path)) == 1
    put(tmp_path, 1, turn="third")
    assert load(latest(tmp_path)).rest["turn"] == "third"
    assert names(tmp_path) == ["step-00000001"]


FILES = ("weights.safetensors", "optimizer.safetensors", "training.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["cut", "flip", "gone", "empty"])
def test_damage_is_told_and_the_one_before_offered(tmp_path, name, fault):
    before, path = put(tmp_path, 1), put(tmp_path, 2)
    content = bytearray((path / name).read_bytes())
    if fault == "gone":
        (path / name).unlink()
    else:
        content[len(content) // 2] ^= 4
        cut = {"cut": len(content) - 5, "flip": len(content), "empty": 0}[fault]
        (path / name).write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"is damaged: .*Load the one before it: ") as caught:
        load(path)
    assert str(before) in str(caught.value)
    assert load(before).step == 1


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, place, bit):
    path = put(tmp_path_factory.mktemp("flip"), 1)
    file = path / FILES[place % 3]
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load(path)


@pytest.mark.parametrize("place", ["save_file", "_flush", "_file_digest", "_put"])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, place):
    before = put(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, place, full)
    with pytest.raises(
        OSError, match=r"disk is full: make room.*; step-00000001 is as it was"
    ) as e:
        put(tmp_path, 2)
    monkeypatch.undo()
    assert e.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["step-00000001"]
    assert load(before).step == 1


def test_a_file_that_may_not_grow_loses_nothing(tmp_path):
    """The same with a real failure to write, in the middle of a file."""
    resource = pytest.importorskip("resource")
    before = put(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be saved .*; step-00000001 is as it was"):
            save(tmp_path, 2, {"w": torch.zeros(10_000)}, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["step-00000001"]
    assert load(before).step == 1


KILLS = int(os.environ.get("KILLS", "50"))


def save_without_end(folder, step, tell):
    while True:
        step += 1
        os.write(tell, b"%d\n" % step)
        save(folder, step, {"w": torch.full((20_000,), float(step))}, {}, {"step": step})
        os.write(tell, b"%d\n" % -step)


def test_kill_9_while_saving_loses_nothing(tmp_path):
    """What was reported as saved is there, and whatever is there is whole. KILLS=500 for more."""
    draw, done, within = random.Random(0), 0, 0
    for _ in range(KILLS):
        hear, tell = os.pipe()
        child = os.fork()
        if not child:
            try:
                save_without_end(tmp_path, done, tell)
            finally:
                os._exit(1)
        os.close(tell)
        said = os.read(hear, 1)  # it began to save
        time.sleep(draw.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        while more := os.read(hear, 10_000):
            said += more
        os.close(hear)
        numbers = [int(line) for line in said.split()]
        done = max([done, *(-number for number in numbers)])
        within += numbers[-1] > 0
        newest = latest(tmp_path)
        assert newest is not None or not done
        if newest is not None:
            checkpoint = load(newest)
            assert checkpoint.step == step_of(newest) == checkpoint.rest["step"]
            assert done <= checkpoint.step <= done + 1
            assert (checkpoint.weights["w"] == checkpoint.step).all()
            done = checkpoint.step
    assert within > KILLS // 2  # killed in the middle of it


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda folder: load(folder / "x"), ValueError, "there is no checkpoint .*x.$"),
        (
            lambda folder: load(put(folder, 1).parent / "x"),
            ValueError,
            "newest in .* is step-00000001",
        ),
        (
            lambda folder: save(folder, -1, {}, {}, {}),
            ValueError,
            "step must be at least 0; it is -1",
        ),
        (lambda folder: save(folder, 1, {}, {}, {}, keep=0), ValueError, "keep must be at least 1"),
        (
            lambda folder: save(folder, 1, {}, {"a": [object()]}, {}),
            TypeError,
            "optimizer.a.0 can't be saved: it is a object",
        ),
        (lambda folder: step_of("step-1"), ValueError, "like step-00000100; it is 'step-1'"),
        (
            lambda folder: Checkpoints(folder=folder, every=0),
            ValueError,
            "every must be at least 1",
        ),
        (lambda folder: Checkpoints(folder=folder, keep=0), ValueError, "keep must be at least 1"),
    ],
)
def test_bad_input_is_answered_in_words(tmp_path, use, error, says):
    with pytest.raises(error, match=says):
        use(tmp_path)


def test_what_can_not_be_saved_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, 1, {}, {"a": object()}, {})
    assert names(tmp_path) == []
