"""What torchrun runs in the tests: three small trainings, each into a folder of its own."""

import sys
from pathlib import Path

import torch

from tests.training.small import batches, tiny
from transformer_lab.training import Checkpoints, Cosine, Silent, Trainer, adamw, latest, muon
from transformer_lab.training.distributed import Replicated, Sharded, launched, shard


def train(folder, parallel, *, model, make, accumulate):
    one = Trainer(
        model,
        batches,
        optimizer=make(model, 0.01),
        schedule=Cosine(steps=6),
        accumulate=accumulate,
        parallel=parallel,
        progress=Silent(),
    )
    if latest(folder):
        one.resume(latest(folder))
    one.fit(4, checkpoints=Checkpoints(folder=folder))


def main(folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    with launched(Replicated) as parallel:
        if parallel.size != 2:
            raise SystemExit("two processes were wanted")
        train(folder / "replicated", parallel, model=tiny(), make=muon, accumulate=2)
        model = shard(tiny())
        train(folder / "sharded", Sharded(), model=model, make=adamw, accumulate=2)
        # This folder holds what one process saved after two steps.
        model = shard(tiny(seed=1))
        train(folder / "resumed", Sharded(), model=model, make=adamw, accumulate=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
