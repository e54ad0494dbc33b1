"""Faults planted into each solution: the check must see every one, but for those listed here."""

import ast
import linecache

import pytest
import torch

from tests.checking.mutants import mutants
from tools.sources import exercise_names, plan
from transformer_lab.checking.engine import examine
from transformer_lab.checking.registry import exercises

# Mutants that give the same answer as the solution, each with the reason.
EQUIVALENT = {
    ("gradient_check", "line 1: 1e-05 → -1e-05"): "a central difference is even in eps",
    ("proportions", "line 2: -1: USub dropped"): "counts have two axes: the last is axis 1",
    (
        "cross_entropy",
        "line 4: torch.arange(len(targets), device=logits.device): device dropped",
    ): "torch takes indices that are on the CPU for a tensor on any device",
    ("cross_entropy", "line 5: -1: USub dropped"): "logits have two axes: the last is axis 1",
    **{
        ("bert_mask", f"line {line}: Lt → LtE"): "a draw equal to the bound has probability 0"
        for line in ("12: chance() < p", "15: fate < 0.9", "16: fate < 0.8")
    },
    ("bert_mask", "line 15: fate < 0.9: Lt → Gt"): "the two tenths change places: same chances",
    ("repetition_penalty", "line 3: seen > 0: Gt → GtE"): "0 divided or multiplied stays 0",
    ("leaks", "line 4: .amax → .sum"): "a sum of absolute values is zero when the largest is",
}


def solutions() -> dict[str, tuple[str, str]]:
    """By exercise: the source of its solution, and the imports of its notebook."""
    found = {}
    for planned in plan():
        if planned.path.parent.name != "solutions":
            continue
        cells = [cell.source for cell in planned.notebook.cells if cell.cell_type == "code"]
        imports = "\n".join(
            line for line in cells[0].splitlines() if line.startswith(("import", "from"))
        )
        for name in exercise_names(planned.notebook):
            source = next(cell for cell in cells if _defines(cell, name))
            found[name] = (source, imports)
    return found


def _defines(source: str, name: str) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
        for node in ast.parse(source).body
    )


SOLUTIONS = solutions()


def made(name: str, source: str, imports: str):
    """The function of that name, as a notebook would hold it."""
    text = f"{imports}\n{source}"
    filename = f"<answer to {name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    namespace: dict[str, object] = {}
    exec(compile(text, filename, "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solution_passes(name):
    result = examine(made(name, *SOLUTIONS[name]), exercises()[name])
    assert result.status == "pass", result


@pytest.mark.parametrize("name", SOLUTIONS)
def test_every_mutant_of_the_solution_is_caught(name):
    source, imports = SOLUTIONS[name]
    survivors, count = [], 0
    for what, mutated in mutants(source):
        count += 1
        if (name, what) in EQUIVALENT:
            continue
        try:
            answer = made(name, mutated, imports)
        except Exception:
            continue  # it doesn't even become a function
        torch.manual_seed(0)
        if examine(answer, exercises()[name]).status == "pass":
            survivors.append(f"{what}\n{mutated}")
    assert count >= 2
    assert not survivors, "\n\n".join(survivors)


def test_listed_mutants_exist():
    made_now = {
        (name, what) for name, (source, _) in SOLUTIONS.items() for what, _ in mutants(source)
    }
    assert set(EQUIVALENT) <= made_now
