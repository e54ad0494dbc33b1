"""Data to learn from, most of it made here, and the batches that it comes in."""

from transformer_lab.data.arithmetic import (
    ADDITION,
    ADDITION_WITH_CARRIES,
    MULTIPLICATION,
    MULTIPLICATION_WITH_PARTIAL_PRODUCTS,
    Arithmetic,
    arithmetic_pairs,
    read_answer,
)
from transformer_lab.data.batches import Completions, PairBatch, Pairs, Passes, Windows, split
from transformer_lab.data.blanks import BlankInfilling, blank_infilling
from transformer_lab.data.dates import (
    CHINESE,
    DATE_STYLES,
    ENGLISH,
    FRENCH,
    GERMAN,
    SPANISH,
    DateStyle,
    date_pairs,
)
from transformer_lab.data.grammar import Grammar, Rule
from transformer_lab.data.languages import agreement, brackets
from transformer_lab.data.text import python_topics, read_text

__all__ = [
    "ADDITION",
    "ADDITION_WITH_CARRIES",
    "CHINESE",
    "DATE_STYLES",
    "ENGLISH",
    "FRENCH",
    "GERMAN",
    "MULTIPLICATION",
    "MULTIPLICATION_WITH_PARTIAL_PRODUCTS",
    "SPANISH",
    "Arithmetic",
    "BlankInfilling",
    "Completions",
    "DateStyle",
    "Grammar",
    "PairBatch",
    "Pairs",
    "Passes",
    "Rule",
    "Windows",
    "agreement",
    "arithmetic_pairs",
    "blank_infilling",
    "brackets",
    "date_pairs",
    "python_topics",
    "read_answer",
    "read_text",
    "split",
]
