"""The command `python -m transformer_lab.training`: trains a small language model and lets it write.

The only module of this folder that knows models, tokenizers, data and generation.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from transformer_lab.data import Passes, python_topics, read_text, split
from transformer_lab.generation import Sampling, Temperature, TopK, generate
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.tokenizers import BytePairTokenizer, CharacterTokenizer
from transformer_lab.training.checkpoints import Checkpoints, latest
from transformer_lab.training.distributed import Replicated, Sharded, launched, shard
from transformer_lab.training.loop import Trainer
from transformer_lab.training.losses import mean_loss, next_token_loss
from transformer_lab.training.optimisers import adamw, muon
from transformer_lab.training.parallel import Alone
from transformer_lab.training.precision import automatic_precision
from transformer_lab.training.schedules import Linear
from transformer_lab.training.start import quiet_start_

Tokenizer = BytePairTokenizer | CharacterTokenizer

_VALIDATION_TOKENS = 20_000  # enough for two digits, few enough not to wait for


class Kind(str, Enum):
    """Which model to train."""

    gpt = "gpt"
    llama = "llama"


class Method(str, Enum):
    """Which optimiser to train it with."""

    adamw = "adamw"
    muon = "muon"


_RATES = {Method.muon: 0.01, Method.adamw: 0.002}

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def train(
    text: Annotated[
        Path | None,
        typer.Argument(
            help="A text file in UTF-8 to learn from. Python's own help topics if left out.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[Kind, typer.Option(help="Which model.")] = Kind.llama,
    vocab: Annotated[
        int,
        typer.Option(
            help="Number of tokens, from 256 up, learned from the text as pairs of bytes. With 0, "
            "each character is a token.",
            metavar="TOKENS",
        ),
    ] = 0,
    layers: Annotated[int, typer.Option(help="Blocks of the model.", metavar="BLOCKS", min=1)] = 4,
    width: Annotated[
        int, typer.Option(help="Features of each position.", metavar="FEATURES", min=1)
    ] = 128,
    heads: Annotated[
        int, typer.Option(help="Attention heads; they divide the width.", metavar="HEADS", min=1)
    ] = 4,
    dropout: Annotated[
        float,
        typer.Option(
            help="Share of the features that a GPT drops; LLaMA drops none.", metavar="SHARE"
        ),
    ] = 0.0,
    context: Annotated[
        int, typer.Option(help="Tokens that the model sees at once.", metavar="TOKENS", min=1)
    ] = 192,
    batch: Annotated[
        int, typer.Option(help="Pieces of text in each step.", metavar="PIECES", min=1)
    ] = 5,
    accumulate: Annotated[
        int,
        typer.Option(
            help="Parts that a batch is done in, to save memory; the result is the same.",
            metavar="PARTS",
            min=1,
        ),
    ] = 1,
    steps: Annotated[int, typer.Option(help="Steps in all.", metavar="STEPS", min=1)] = 1200,
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Steps over which the learning rate rises. One in twenty if left out.",
            show_default=False,
            metavar="STEPS",
            min=0,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help=f"Highest learning rate. {_RATES[Method.muon]} for muon and {_RATES[Method.adamw]} for adamw "
            "if left out.",
            metavar="RATE",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[Method, typer.Option(help="Which optimiser.")] = Method.muon,
    weight_decay: Annotated[
        float, typer.Option(help="How strongly matrices are drawn to 0.", metavar="SHARE")
    ] = 0.1,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder to save the training in. Nothing is saved if left out.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            help="Steps from one validation, and checkpoint, to the next.", metavar="STEPS", min=1
        ),
    ] = 250,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in that folder.")
    ] = False,
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Under torchrun: a part of the model in each process."),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            help="Another seed: other weights, batches and samples.", metavar="NUMBER", min=0
        ),
    ] = 0,
    prompt: Annotated[
        str,
        typer.Option(
            help="What the samples begin with. A new line if left out.",
            metavar="WORDS",
            show_default=False,
        ),
    ] = "\n",
    samples: Annotated[
        int, typer.Option(help="Texts to write at the end.", metavar="TEXTS", min=0)
    ] = 2,
    length: Annotated[
        int,
        typer.Option(help="Tokens of each; a GPT ends with its context.", metavar="TOKENS", min=1),
    ] = 200,
) -> None:
    """Train a small language model on a text, then let it write.

    Without any option it takes about two minutes on two cores. In several processes:
    torchrun --nproc-per-node 2 -m transformer_lab.training
    """
    if resume and checkpoints is None:
        raise typer.BadParameter("--resume needs --checkpoints FOLDER, the folder to resume from.")
    warmup = steps // 20 if warmup is None else warmup
    lr = _RATES[optimizer] if lr is None else lr
    settings = {
        "text": None if text is None else str(text),
        "model": model.value,
        "vocab": vocab,
        "layers": layers,
        "width": width,
        "heads": heads,
        "dropout": dropout,
        "context": context,
        "batch": batch,
        "steps": steps,
        "warmup": warmup,
        "lr": lr,
        "optimizer": optimizer.value,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    with _errors_in_words(), launched(Sharded if sharded else Replicated) as parallel:
        words = python_topics() if text is None else read_text(text)
        tokenizer = _tokenizer(words, vocab)
        if checkpoints is not None:
            _keep_settings(checkpoints, settings, tokenizer, resume, parallel)
        torch.manual_seed(seed)
        built = quiet_start_(_built(settings, tokenizer.vocab_size)).to(parallel.device)
        if sharded and parallel.size > 1:
            shard(built)
        ids = tokenizer.encode(words)
        training, validation = split(ids, context=context)
        precision = automatic_precision(parallel.device)
        make = adamw if optimizer is Method.adamw else partial(muon, precision=precision)
        check = list(
            Passes(validation[: _VALIDATION_TOKENS + 1], context=context, batch=64).sequential()
        )
        trainer = Trainer(
            built,
            Passes(training, context=context, batch=batch, seed=seed),
            optimizer=make(built, lr, weight_decay=weight_decay),
            schedule=Linear(steps=steps, warmup=warmup),
            accumulate=accumulate,
            precision=precision,
            parallel=parallel,
            seed=seed,
        )
        newest = latest(checkpoints) if resume and checkpoints is not None else None
        if newest is not None:
            trainer.resume(newest)
        _say(parallel, _summary(built, len(training), tokenizer.vocab_size, trainer, newest))
        trainer.fit(
            steps,
            validate=lambda each: mean_loss(each, check, next_token_loss),
            every=every,
            checkpoints=None
            if checkpoints is None
            else Checkpoints(folder=checkpoints, every=every),
        )
        limit = context if model is Kind.gpt else None
        for number in range(samples):
            _say(parallel, f"\n--- sample {number + 1}")
            _say(parallel, _sample(built, tokenizer, prompt, length, limit, seed + number))


def _tokenizer(words: str, vocab: int) -> Tokenizer:
    return BytePairTokenizer.train(words, vocab) if vocab else CharacterTokenizer.train(words)


def _built(settings: dict[str, Any], vocab_size: int) -> nn.Module:
    sizes = {
        "vocab_size": vocab_size,
        "d_model": settings["width"],
        "num_layers": settings["layers"],
        "num_heads": settings["heads"],
    }
    if settings["model"] == "gpt":
        wide = 4 * settings["width"]
        rest = {"max_positions": settings["context"], "dropout": settings["dropout"]}
        return GPT(GPTConfig(**sizes, **rest, d_ff=wide))
    # Three matrices of 8/3 widths have as many weights as two of 4; rounded up to a multiple of 8.
    gated = -(-settings["width"] // 3) * 8
    return Llama(LlamaConfig(**sizes, num_kv_heads=settings["heads"], d_ff=gated))


def _sample(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str,
    length: int,
    limit: int | None,
    seed: int,
) -> str:
    ids = tokenizer.encode(prompt)
    if limit is not None:
        ids = ids[: limit - 1]
        length = min(length, limit - len(ids))
    new = generate(model, ids, length, choose=Sampling([Temperature(0.8), TopK(50)]), seed=seed)
    return tokenizer.decode([*ids, *new[0].tolist()])


def _keep_settings(
    folder: Path,
    settings: dict[str, Any],
    tokenizer: Tokenizer,
    resume: bool,
    parallel: Alone,
) -> None:
    """Write beside the checkpoints what the training was begun with, or compare with it."""
    path = folder / "settings.json"
    if latest(folder) is not None and path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        others = [
            f"--{name.replace('_', '-')} {begun.get(name)}"
            for name, value in settings.items()
            if begun.get(name) != value
        ]
        if resume and others:
            raise ValueError(
                f"the training in {folder} was begun with {', '.join(others)}. Give the same to go on "
                "with it, or another folder."
            )
        if not resume:
            raise ValueError(
                f"{folder} holds a training already. Go on with it by --resume, or give another folder."
            )
        return
    if parallel.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        tokenizer.save(folder / "tokenizer")


def _summary(
    model: nn.Module, tokens: int, vocab_size: int, trainer: Trainer, newest: Path | None
) -> str:
    number = sum(weight.numel() for weight in model.parameters())
    begin = f"Goes on after {newest.name}." if newest else "Begins."
    return (
        f"{begin} {type(model).__name__} with {number:,} weights, {tokens:,} tokens to learn from, "
        f"{vocab_size} different ones, {str(trainer.precision.dtype).removeprefix('torch.')}."
    )


def _say(parallel: Alone, sentence: str) -> None:
    if parallel.rank == 0:
        typer.echo(sentence)


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn an error that the reader can mend into one line and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
