"""Generating text: how the next token is chosen, the loop around the model, and beam search."""

from transformer_lab.generation.beams import Hypothesis, LengthPenalty, beam_search
from transformer_lab.generation.choosing import Choose, Sampling, greedy
from transformer_lab.generation.filters import (
    Filter,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from transformer_lab.generation.generating import generate, stream

__all__ = [
    "Choose",
    "Filter",
    "Hypothesis",
    "LengthPenalty",
    "MinP",
    "RepetitionPenalty",
    "Sampling",
    "Temperature",
    "TopK",
    "TopP",
    "beam_search",
    "generate",
    "greedy",
    "stream",
]
