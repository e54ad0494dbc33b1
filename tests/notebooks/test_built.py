"""The stored notebooks: equal to the texts, executed, small, and answered as they should be."""

import ast
import json
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tools.build import cells, read, statuses
from tools.sources import ROOT, exercise_names, plan
from transformer_lab.checking.registry import exercises

PLANNED = plan()
FOLDERS = ("notebooks", "solutions", "exercises")
STORED = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.ipynb"))
LINK = re.compile(r"\]\((?!https?:|#|attachment:)([^)#\s]+)")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_text_has_its_notebooks_and_no_other_stands_there() -> None:
    assert sorted(ROOT / planned.path for planned in PLANNED) == STORED


@pytest.mark.parametrize("planned", PLANNED, ids=lambda planned: str(planned.path))
def test_cells_are_those_of_the_text(planned) -> None:
    stored = cells(read(ROOT / planned.path))
    assert stored == cells(planned.notebook), (
        f"{planned.path} isn't built from {planned.source.name} as it stands: run `make notebooks`"
    )


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_every_code_cell_has_run_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(read(path))]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_only_tagged_cells_hold_errors(path: Path) -> None:
    for cell in code_cells(read(path)):
        raised = any(output.output_type == "error" for output in cell.outputs)
        assert not raised or "raises-exception" in tags(cell), cell.source


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_nothing_is_stored_that_differs_from_run_to_run(path: Path) -> None:
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"a warning or a progress bar: {output.text}"
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            text = json.dumps(output.get("data", {}).get("text/plain", "")) + output.get("text", "")
            assert not re.search(r"0x[0-9a-f]{6,}", text), f"an address: {text}"


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_is_small_enough_to_load(path: Path) -> None:
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_almost_every_output_is_compared(path: Path) -> None:
    code = code_cells(read(path))
    ignored = sum("nbval-ignore-output" in tags(cell) for cell in code)
    assert ignored <= 0.05 * len(code)
    known = {"nbval-ignore-output", "raises-exception"}
    assert all(set(tags(cell)) <= known for cell in code)


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in LINK.findall(text):
        # work/ is made on the learner's machine, of exercises/.
        there = (path.parent / target.replace("../work/", "../exercises/")).resolve()
        assert there.exists(), f"{identify(path)} links to {target}, which isn't there"


@pytest.mark.parametrize(("folder", "status"), [("solutions", "pass"), ("exercises", "todo")])
def test_stored_answers(folder: str, status: str) -> None:
    for path in sorted((ROOT / folder).glob("*.ipynb")):
        notebook = read(path)
        assert statuses(notebook) == [(name, status) for name in exercise_names(notebook)]


def test_each_exercise_of_the_checker_stands_in_its_notebook() -> None:
    in_notebooks = {
        name: path.stem
        for path in sorted((ROOT / "exercises").glob("*.ipynb"))
        for name in exercise_names(read(path))
    }
    assert in_notebooks == {name: exercise.lesson for name, exercise in exercises().items()}


def test_no_code_of_a_solution_is_left_in_the_exercises() -> None:
    for path in sorted((ROOT / "exercises").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert "SOLUTION" not in text
        assert text.count("your code here") >= len(exercise_names(read(path)))


OPTIONAL = {
    "transformers",
    "tokenizers",
    "jupytext",
    "hypothesis",
}  # what `make lab` doesn't install


def bare_imports(code: str) -> set[str]:
    """What a cell imports in any case, under no `try` or `if`."""
    names = set()
    todo = list(ast.parse(code).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.With | ast.For | ast.ClassDef):
            todo += node.body
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", STORED, ids=identify)
def test_runs_with_what_the_course_installs(path: Path) -> None:
    for cell in code_cells(read(path)):
        assert not bare_imports(cell.source) & OPTIONAL, cell.source


def test_an_import_that_is_not_always_there_would_be_seen() -> None:
    assert bare_imports("with quiet():\n    from transformers.models import llama") == {
        "transformers"
    }
    assert not bare_imports("try:\n    import transformers\nexcept ImportError:\n    pass")
