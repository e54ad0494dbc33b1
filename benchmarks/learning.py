"""How little a small model of characters can be left to guess, in how little time.

The text is that of `pydoc_data.topics`, its first nine tenths to train on and the rest to be foreseen. The
preset is a well-known small one for a processor, that reads windows of 64 characters. The recipe is the
course's. It reads 192 where there is time for it, so that fewer characters stand at the beginning of a
window, where there is little to go by; it goes over the text in passes, which leave nothing out; its blocks
begin by adding nothing. Each change is taken back by itself, to see what it gave.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import OURS, Figure
from transformer_lab.data import Passes, Windows, python_topics, split
from transformer_lab.masks import causal_mask
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.tokenizers import CharacterTokenizer
from transformer_lab.training import BFLOAT16, Cosine, Linear, Trainer, adamw, muon, quiet_start_
from transformer_lab.training.optimisers import Optimizer
from transformer_lab.training.schedules import Schedule

PRESET = "the preset"
TURNS = 100


@dataclass(frozen=True)
class Recipe:
    """Everything that a training of so many steps needs, but text and seed.

    Args:
        model: Made from the number of characters.
        optimizer: Made from the model.
        schedule: Made from the number of steps.
        windows: Cuts the text into batches.
        context: Characters of a window.
        batch: Windows a step.
        steps: Of the whole training.
    """

    model: Callable[[int], nn.Module]
    optimizer: Callable[[nn.Module], Optimizer]
    schedule: Callable[[int], Schedule]
    windows: type[Windows]
    context: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What a training reached.

    Args:
        loss: On the text that was kept back, nats for each character.
        seconds: Of training, without the validation.
    """

    loss: float
    seconds: float


def gpt(vocab_size: int, context: int) -> nn.Module:
    """Four layers of 128 features, 0.8 million parameters."""
    return GPT(
        GPTConfig(
            vocab_size=vocab_size, max_positions=context, d_model=128, num_layers=4, num_heads=4,
            d_ff=512, dropout=0.0,
        )
    )  # fmt: skip


def llama(vocab_size: int) -> nn.Module:
    """The same size with RMSNorm, rotary positions and SwiGLU."""
    return Llama(_llama_config(vocab_size))


class Pairs(nn.Module):
    """LLaMA's blocks over an embedding of each character, to which that of its pair with the last is added.

    A look-up costs next to nothing, and the first block needn't find out what stands before.

    Args:
        vocab_size: Number of characters.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        base = Llama(_llama_config(vocab_size))
        self.blocks, self.final_norm, self.vocab_size = base.blocks, base.final_norm, vocab_size
        self.characters, width = base.token_embedding, base.config.d_model
        self.pairs = nn.Embedding(vocab_size**2, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for layer in (self.pairs, self.head):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        last = F.pad(tokens, (1, 0))[:, :-1]
        x = self.characters(tokens) + self.pairs(last * self.vocab_size + tokens)
        mask = causal_mask(tokens.shape[1], device=tokens.device)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.head(self.final_norm(x))


def _llama_config(vocab_size: int) -> LlamaConfig:
    sizes = {"d_model": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "d_ff": 344}
    return LlamaConfig(vocab_size=vocab_size, tied=True, **sizes)


def _tuned_adamw(model: nn.Module) -> Optimizer:
    return adamw(model, 4e-3, betas=(0.9, 0.99))


WELL_KNOWN = Recipe(
    model=partial(gpt, context=64),
    optimizer=lambda model: adamw(model, 1e-3, betas=(0.9, 0.99)),
    schedule=lambda steps: Cosine(steps=steps, warmup=100, end=0.1),
    windows=Windows,
    context=64,
    batch=12,
    steps=2000,
)
"""The preset: AdamW at 1e-3, cosine to a tenth, 2,000 steps of 12 × 64 characters."""

RECIPE = Recipe(
    model=lambda vocab_size: quiet_start_(Pairs(vocab_size)),
    optimizer=lambda model: muon(model, 1e-2, betas=(0.9, 0.99), precision=BFLOAT16),
    schedule=lambda steps: Linear(steps=steps, warmup=steps // 20),
    windows=Passes,
    context=192,
    batch=5,
    steps=1200,
)
"""The course's recipe."""

SHORT = replace(RECIPE, context=64, batch=15)
"""The same for a short training: what stands far back is learnt last, and costs from the beginning."""

SHARES = {"a quarter": 0.25, "the whole": 1.0}  # of the preset's time

ABLATION: dict[str, Callable[[Recipe], Recipe]] = {
    "without the pairs": lambda recipe: replace(
        recipe, model=lambda vocab_size: quiet_start_(llama(vocab_size))
    ),
    "GPT in place of LLaMA, without the pairs": lambda recipe: replace(
        recipe, model=lambda vocab_size: quiet_start_(gpt(vocab_size, recipe.context))
    ),
    "all weights drawn, in place of a quiet start": lambda recipe: replace(recipe, model=Pairs),
    "windows drawn one by one, in place of passes": lambda recipe: replace(recipe, windows=Windows),
    "windows of 64, in place of 192": lambda recipe: replace(SHORT, steps=recipe.steps),
    "AdamW in place of Muon": lambda recipe: replace(recipe, optimizer=_tuned_adamw),
    "cosine to a tenth in place of a straight line to 0": lambda recipe: replace(
        recipe, schedule=lambda steps: Cosine(steps=steps, warmup=steps // 20, end=0.1)
    ),
}


@dataclass(frozen=True)
class Text:
    """The ids of the text, split.

    Args:
        train: To train on.
        validation: To be foreseen.
        vocab_size: Number of different characters.
    """

    train: Tensor
    validation: Tensor
    vocab_size: int


def text() -> Text:
    """The topics of Python's help, as ids."""
    whole = python_topics()
    tokenizer = CharacterTokenizer.train(whole)
    train, validation = split(tokenizer.encode(whole), 0.9, RECIPE.context)
    return Text(train, validation, tokenizer.vocab_size)


def train(recipes: Mapping[str, Recipe], corpus: Text, seed: int) -> dict[str, Outcome]:
    """Train with each of these recipes, and foresee the text that was kept back.

    They take turns, a hundredth of each training at a time, so that a machine whose speed drifts is unfair
    to none of them.

    Args:
        recipes: What to do, by name.
        corpus: The text.
        seed: Of the first weights and of the batches.
    """
    trainers = {name: _trainer(recipe, corpus, seed) for name, recipe in recipes.items()}
    seconds = dict.fromkeys(recipes, 0.0)
    for turn in range(TURNS):
        for name, trainer in trainers.items():
            steps = recipes[name].steps
            start = time.perf_counter()
            for _ in range(turn * steps // TURNS, (turn + 1) * steps // TURNS):
                trainer.step()
            seconds[name] += time.perf_counter() - start
    return {
        name: Outcome(loss(trainer.model, corpus.validation, recipes[name].context), seconds[name])
        for name, trainer in trainers.items()
    }


def _trainer(recipe: Recipe, corpus: Text, seed: int) -> Trainer:
    torch.manual_seed(seed)
    model = recipe.model(corpus.vocab_size).train()
    return Trainer(
        model,
        recipe.windows(corpus.train, context=recipe.context, batch=recipe.batch, seed=seed),
        optimizer=recipe.optimizer(model),
        schedule=recipe.schedule(recipe.steps),
        seed=seed,
    )


@torch.no_grad()
def loss(model: nn.Module, validation: Tensor, context: int) -> float:
    """Nats for each character of the text that was kept back.

    Args:
        model: tokens -> logits.
        validation: That text, as ids.
        context: Characters of the windows that it is cut into, one after the other.
    """
    model.eval()
    total, number = 0.0, 0
    for x, y in Windows(validation, context=context, batch=8192 // context).sequential():
        logits = model(x).flatten(0, 1)
        total += F.cross_entropy(logits, y.flatten(), reduction="sum").item()
        number += y.numel()
    return total / number


def figures(rounds: int) -> list[Figure]:
    """Preset and recipe in turns, for a quarter of the preset's time and for the whole, then the ablation.

    Args:
        rounds: Seeds, three at most: each round is a whole training.
    """
    corpus, seeds = text(), range(min(rounds, 3))
    recipes = {PRESET: WELL_KNOWN, "a quarter": SHORT, "the whole": RECIPE}
    probe = train({name: replace(each, steps=200) for name, each in recipes.items()}, corpus, 0)
    for name, share in SHARES.items():
        steps = share * WELL_KNOWN.steps * probe[PRESET].seconds / probe[name].seconds
        recipes[name] = replace(recipes[name], steps=int(0.85 * steps))  # the probe is a short one
    reached = [train(recipes, corpus, seed) for seed in seeds]
    preset_losses = [each[PRESET].loss for each in reached]
    found = []
    for name, aim in (("a quarter", 1.41), ("the whole", 1.18)):
        ours = [each[name] for each in reached]
        shares = [each[name].seconds / each[PRESET].seconds for each in reached]
        holds = max(o.loss for o in ours) <= aim and statistics.mean(shares) <= SHARES[name]
        found.append(
            Figure(
                f"loss after {name} of the preset's time", "1/nats",
                {OURS: [1 / each.loss for each in ours], PRESET: [1 / each for each in preset_losses]},
                note=f"losses {_spread([o.loss for o in ours])} nats, aim {aim}: "
                f"{'holds' if holds else 'FALLS SHORT'}; the preset "
                f"{_spread(preset_losses)}; share of its time {_spread(shares)}",
                extra={"losses": [o.loss for o in ours], "preset": preset_losses, "aim": aim,
                       "shares of the time": shares, "seconds": [o.seconds for o in ours]},
            )
        )  # fmt: skip
    steps = RECIPE.steps // 4
    short = replace(RECIPE, steps=steps)
    for name, change in {"the recipe": lambda recipe: recipe, **ABLATION}.items():
        outcomes = [train({name: change(short)}, corpus, seed)[name] for seed in seeds]
        losses = [each.loss for each in outcomes]
        found.append(
            Figure(
                f"ablation, {steps} steps: {name}", "1/nats", {OURS: [1 / each for each in losses]},
                note=f"losses {_spread(losses)} nats in {_spread([o.seconds for o in outcomes])} s",
                extra={"losses": losses, "seconds": [o.seconds for o in outcomes]},
            )
        )  # fmt: skip
    return found


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
