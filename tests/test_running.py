"""Hand-made notebooks run in real kernels; as few kernels as the cases allow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from transformer_lab.running import ExerciseResult, RunningError, run_cells, run_lesson
from transformer_lab.workspace import Workspace

# A checker in miniature: it answers in the way that transformer_lab.checking answers.
CHECKER = """
class Result:
    def __init__(self, name, status, diagnosis):
        self.facts = dict(lesson="05_attention", name=name, status=status, diagnosis=diagnosis)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.facts["diagnosis"]}, {"transformer_lab": self.facts}


def check(answer):
    name = answer.__name__
    try:
        value = answer()
    except NotImplementedError:
        return Result(name, "todo", "still to be written")
    if value == 1:
        return Result(name, "pass", "right")
    return Result(name, "fail", f"not {value} but 1\\nsecond line [0, 1]")
"""


def notebook(cells: list[str]) -> str:
    made: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "source": text,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for text in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def course(tmp_path: Path, names: list[str], cells: list[str]) -> Workspace:
    """A course folder of one lesson with some exercises, and the learner's cells in work/."""
    for folder in ("exercises", "notebooks", "work"):
        (tmp_path / folder).mkdir()
    workspace = Workspace(tmp_path)
    shipped = [f"check({name})" for name in names]
    workspace.exercise_path("05_attention").write_text(notebook(shipped), encoding="utf-8")
    workspace.work_path("05_attention").write_text(notebook(cells), encoding="utf-8")
    return workspace


def test_results_and_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMER_LAB_NO_PROGRESS", "1")
    names = "right wrong stub broken after slow assigned gone where twice crash unreached"
    cells = [
        CHECKER,
        "",
        "def right():\n    return 1",
        "check(right)",
        "def wrong():\n    return 2\ncheck(wrong)",
        "def stub():\n    raise NotImplementedError\ncheck(stub)",
        "stub()  # another exercise's stub is not to blame for what follows",
        "def broken(:\n    return 1",
        "check(broken)",
        "check(after)  # defined nowhere",
        "def slow():\n    while True:\n        print('.' * 1000)",
        "check(slow)",
        "def assigned():\n    return 1",
        "result = check(assigned)",
        "import os, pathlib",
        "def where():",
        "def where():\n"
        "    here = pathlib.Path.cwd().name\n"
        "    return 1 if (here, os.getenv('TRANSFORMER_LAB_NO_PROGRESS')) == ('work', None) else 0",
        "check(where)",
        "def twice():\n    return 2\ncheck(twice)",
        "def twice():\n    return 1\ncheck(twice)",
        "def crash():\n    os._exit(3)",
        "check(crash)",
        "check(unreached)",
    ]
    workspace = course(tmp_path, names.split(), cells)
    path = workspace.work_path("05_attention")
    before = path.read_bytes()
    results = {each.name: each for each in run_lesson(workspace, "05_attention", timeout=2)}
    assert path.read_bytes() == before
    assert list(results) == names.split()

    assert results["right"] == ExerciseResult("right", "pass", "right")
    assert results["wrong"] == ("wrong", "fail", "not 2 but 1\nsecond line [0, 1]")
    assert results["stub"].status == "todo"
    assert results["where"].status == "pass"
    assert results["twice"].status == "pass"  # the last one counts

    # Cells are counted as Jupyter counts them: the empty one is left out.
    reasons = {n: r.diagnosis for n, r in results.items() if r.status == "not run"}
    assert list(reasons) == ["broken", "after", "slow", "assigned", "gone", "crash", "unreached"]
    assert reasons["broken"].startswith("cell 7 raised SyntaxError: ")
    assert "(line 1)" in reasons["broken"]
    assert reasons["broken"].endswith(
        "Cell 7 begins: def broken(:\nThen cell 8 raised NameError: name 'broken' is not defined."
    )
    # The first failing cell of all, and the check's own error.
    assert reasons["after"].startswith("cell 7 raised SyntaxError")
    assert reasons["after"].endswith("Then cell 9 raised NameError: name 'after' is not defined.")
    assert reasons["slow"].startswith("cell 11 ran for more than 2 s and was interrupted\n")
    assert "cell 13 showed no result. check(assigned) must be the last" in reasons["assigned"]
    assert reasons["crash"].startswith("the Python process ended in cell 21 (out of memory")
    assert reasons["gone"] == reasons["unreached"].replace("unreached", "gone")
    assert "check(unreached) was not reached." in reasons["unreached"]


def test_failed_import_is_the_reason_and_a_deleted_check_is_named(tmp_path: Path) -> None:
    cells = ["from nowhere_at_all import check", "def one():\n    return 1", "check(one)"]
    results = run_lesson(course(tmp_path, ["one", "two"], cells), "05_attention")
    assert [each.status for each in results] == ["not run", "not run"]
    assert results[0].diagnosis == (
        "cell 1 raised ModuleNotFoundError: No module named 'nowhere_at_all'\n"
        "Cell 1 begins: from nowhere_at_all import check\n"
        "Then cell 3 raised NameError: name 'check' is not defined."
    )
    assert results[1].diagnosis.startswith("no cell calls check(two).")


def test_cell_that_ignores_the_interrupt_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformer_lab.running._GRACE_SECONDS", 0.3)
    stubborn = (
        "import time\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(0.01)\n"
        "    except BaseException:\n"
        "        pass"
    )
    runs = run_cells(["1", stubborn, "2"], tmp_path, timeout=1)
    assert [run.trouble for run in runs] == [
        "",
        "cell 2 ran for more than 1 s, did not stop when interrupted, and was ended",
    ]
    assert runs[-1].ended_the_run


def test_notebook_without_code(tmp_path: Path) -> None:
    (result,) = run_lesson(course(tmp_path, ["one"], []), "05_attention")
    assert (result.status, result.diagnosis[:24]) == ("not run", "no cell calls check(one)")


def test_missing_and_damaged_notebooks(tmp_path: Path) -> None:
    workspace = course(tmp_path, ["one"], [])
    path = workspace.work_path("05_attention")
    for content in ("{", "[]", '{"cells": 3}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(RunningError, match="is no notebook"):
            run_lesson(workspace, "05_attention")
    path.unlink()
    with pytest.raises(RunningError, match="transformer-lab start 05_attention"):
        run_lesson(workspace, "05_attention")


@pytest.mark.skipif(os.name == "nt", reason="another way to name a program")
def test_kernel_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"argv": [str(tmp_path / "no-python"), "{connection_file}"], "language": "python"}
    monkeypatch.setattr("transformer_lab.running.get_kernel_dict", lambda: spec)
    with pytest.raises(RunningError, match="transformer-lab doctor"):
        run_cells(["1"], tmp_path)
