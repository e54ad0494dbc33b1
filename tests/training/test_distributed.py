"""Two processes train as one does with the whole batch, and save what one can take up."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.small import batches, tiny
from transformer_lab.training import (
    ALONE,
    Checkpoints,
    Cosine,
    History,
    Silent,
    Trainer,
    adamw,
    latest,
    load,
    muon,
)
from transformer_lab.training.distributed import Replicated, Sharded, launched, shard

ROOT = Path(__file__).parent.parent.parent
KINDS = {"replicated": muon, "sharded": adamw, "resumed": adamw}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def alone(make):
    model = tiny()
    return Trainer(
        model,
        batches,
        optimizer=make(model, 0.01),
        schedule=Cosine(steps=6),
        progress=Silent(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes saved after four steps. One torchrun for all: starting it takes seconds."""
    folder = tmp_path_factory.mktemp("parallel")
    alone(adamw).fit(2, checkpoints=Checkpoints(folder=folder / "resumed"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command += ["-m", "tests.training.parallel_script", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_with_the_whole_batch(folder, kind):
    expected = alone(KINDS[kind])
    history = expected.fit(4)
    checkpoint = load(latest(folder / kind))
    assert checkpoint.step == 4
    for name, weight in expected.model.state_dict().items():
        torch.testing.assert_close(checkpoint.weights[name], weight, rtol=0, atol=2e-6)
    ours = History.from_json(checkpoint.rest["history"])
    assert ours.losses == pytest.approx(history.losses, rel=1e-5)
    assert ours.gradient_norms == pytest.approx(history.gradient_norms, rel=1e-4)
    assert ours.tokens == history.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_with_what_two_saved(folder, kind):
    one, expected = alone(KINDS[kind]), alone(KINDS[kind])
    one.resume(latest(folder / kind))
    one.fit(6)
    expected.fit(6)
    for ours, theirs in zip(one.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_without_torchrun_it_runs_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with launched() as parallel:
        assert parallel is ALONE
        assert (parallel.rank, parallel.size) == (0, 1)


@pytest.fixture
def a_group_of_one(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


@pytest.mark.usefixtures("a_group_of_one")
def test_what_is_missing_is_said():
    for kind in (Replicated, Sharded):
        with pytest.raises(ValueError, match=r"there is no process group\. Use"):
            kind()
    says = r"Call shard\(model\) before"
    with launched(Sharded) as parallel, pytest.raises(ValueError, match=says):
        parallel.wrap(nn.Linear(2, 2))


@pytest.mark.usefixtures("a_group_of_one")
def test_muon_refuses_parts_of_matrices():
    with launched(Sharded):
        model = shard(tiny())
        with pytest.raises(ValueError, match="Muon needs whole matrices"):
            muon(model, 0.01)
