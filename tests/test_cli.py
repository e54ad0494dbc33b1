"""The commands as a learner types them, in a course folder made by the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from transformer_lab import cli, doctor, running
from transformer_lab.progress import Progress
from transformer_lab.running import ExerciseResult, RunningError
from transformer_lab.workspace import Workspace

CHECKER = """
from pathlib import Path
from transformer_lab.progress import Progress, folder_of_learner


class Result:
    def __init__(self, name, status):
        self.facts = dict(lesson="02_softmax", name=name, status=status, diagnosis="so [/so]\\nmore")

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "so"}, {"transformer_lab": self.facts}


def check(answer):
    status = answer()
    Progress(folder_of_learner()).record("02_softmax", answer.__name__, status)
    return Result(answer.__name__, status)
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


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = tmp_path.resolve()
    for folder in ("exercises", "notebooks"):
        (root / folder).mkdir()
    exercises = {"02_softmax": ["softmax", "entropy"], "05_attention": ["attention"]}
    for lesson, names in exercises.items():
        cells = [f"def {name}():\n    raise NotImplementedError\ncheck({name})" for name in names]
        (root / "exercises" / f"{lesson}.ipynb").write_text(notebook(cells), encoding="utf-8")
    monkeypatch.chdir(root)
    return Workspace(root)


def run(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, words, input=typed)


def words_of(text: str) -> str:
    """The words alone: a table may break its lines where it likes."""
    return " ".join(text.split())


def pretend_runs(monkeypatch: pytest.MonkeyPatch, **statuses: str) -> None:
    """Answer in the place of the notebooks: one status for each exercise."""

    def run_lesson(workspace: Workspace, lesson: str, timeout: float) -> list[ExerciseResult]:
        names = workspace.exercise_names(lesson)
        if "damaged" in (statuses[name] for name in names):
            raise RunningError("it is no notebook.")
        return [ExerciseResult(name, statuses[name], f"first [{name}]\nsecond") for name in names]

    monkeypatch.setattr(running, "run_lesson", run_lesson)


def subprocess_of(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    path = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        timeout=60,
    )


def test_help_names_every_command_in_one_whole_line() -> None:
    for words in ([], ["--help"], ["-h"]):
        shown = run(*words).output
        for command in ("start", "check", "hint", "progress", "reset", "doctor"):
            assert f"\n  {command} " in shown
        assert "..." not in shown.split("Commands:")[1]
    assert "Save in JupyterLab first" not in run("start", "-h").output
    assert "save in JupyterLab first" in words_of(run("check", "-h").output)


@pytest.mark.parametrize("command", ["--help", "progress"])
def test_answers_without_torch_or_notebook_machinery(course: Workspace, command: str) -> None:
    code = (
        f"import sys; sys.argv = ['transformer-lab', {command!r}]\n"
        "from transformer_lab.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'nbclient', 'nbformat', 'IPython'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess_of(code, course.root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_terminals_of_any_encoding(course: Workspace, encoding: str) -> None:
    # A name that no narrow encoding has, as a diagnosis may hold signs that it lacks.
    (course.exercises / "06_greek.ipynb").write_text(notebook(["check(λ_return)"]), "utf-8")
    course.start_missing()
    Progress(course.work).record("02_softmax", "softmax", "pass")
    code = "import sys; sys.argv[1:] = ['progress']; import transformer_lab.cli as c; c.main()"
    done = subprocess_of(code, course.root, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert ("✓ softmax" if encoding == "utf-8" else "+ softmax") in shown
    assert ("○ λ_return" if encoding == "utf-8" else "o ?_return") in shown


def test_outside_of_a_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformer_lab.workspace.__file__", str(tmp_path / "a" / "b.py"))
    for words in (["start"], ["check"], ["hint", "x"], ["progress"], ["reset", "5"]):
        done = run(*words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("transformer-lab: no course folder found")
        assert done.stderr.count("\n") == 1


def test_start(course: Workspace) -> None:
    assert run("start", "5").output == "work/05_attention.ipynb is made.\n"
    course.work_path("05_attention").write_text("mine", encoding="utf-8")
    assert run("start").output == (
        "work/02_softmax.ipynb is made.\n"
        "work/05_attention.ipynb was there already; left as it is.\n"
    )
    assert course.work_path("05_attention").read_text(encoding="utf-8") == "mine"
    done = run("start", "7")
    assert done.exit_code == 2
    assert "no lesson '7'. There are: 02_softmax, 05_attention." in done.stderr


def test_course_without_exercises(course: Workspace) -> None:
    for path in course.exercises.iterdir():
        path.unlink()
    for words in (["start"], ["start", "5"], ["progress"]):
        done = run(*words)
        assert done.exit_code == 2 and "make notebooks" in done.stderr


def test_check_runs_a_real_notebook_and_records(course: Workspace) -> None:
    course.start_missing()
    cells = [
        CHECKER,
        "def softmax():\n    return 'pass'\ncheck(softmax)",
        "def entropy():\n    return 'fail'\ncheck(entropy)",
    ]
    course.work_path("02_softmax").write_text(notebook(cells), encoding="utf-8")
    done = run("check", "2", "--timeout", "30")
    assert done.exit_code == 1
    assert "02_softmax softmax ✓ so [/so] entropy ✗ so [/so]" in words_of(done.stdout)
    assert "✗ entropy\n  so [/so]\n  more\n  Stuck? transformer-lab hint entropy" in done.stdout
    assert done.stdout.endswith("\n1 of 2 right.\n")
    exercises = Progress(course.work).read().exercises
    assert {name: each.status for name, each in exercises.items()} == {
        "softmax": "pass",
        "entropy": "fail",
    }
    assert "02_softmax 1 of 2 ✓ softmax ✗ entropy" in words_of(run("progress").stdout)


@pytest.mark.parametrize(
    ("statuses", "code", "summary"),
    [
        (("pass", "pass", "pass"), 0, "3 of 3 right."),
        (("pass", "todo", "todo"), 0, "1 of 3 right."),
        (("pass", "fail", "todo"), 1, "transformer-lab check 02_softmax"),
        (("pass", "pass", "not run"), 1, "transformer-lab check 05_attention"),
        (("pass", "pass", "damaged"), 1, "attention – it is no notebook."),
    ],
)
def test_check_of_all(
    course: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    statuses: tuple[str, str, str],
    code: int,
    summary: str,
) -> None:
    course.start_missing()
    pretend_runs(
        monkeypatch, **dict(zip(("softmax", "entropy", "attention"), statuses, strict=True))
    )
    done = run("check")
    assert done.exit_code == code
    assert summary in words_of(done.stdout)
    assert "first [softmax]" in done.stdout and "second" not in done.stdout


def test_check_that_can_not_begin(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("check")
    assert done.exit_code == 2 and "Run `transformer-lab start` first." in done.stderr
    done = run("check", "05")
    assert done.exit_code == 2 and "transformer-lab start 05_attention" in done.stderr
    assert run("check", "--timeout", "0").exit_code == 2
    course.start_missing()
    pretend_runs(monkeypatch, attention="damaged")
    done = run("check", "05")
    assert (done.exit_code, done.stderr) == (2, "transformer-lab: it is no notebook.\n")


def test_hint_counts_in_work(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformer_lab.checking as checking

    def fake(name: str) -> str:
        return f"{name}: [hint] in {Path.cwd().name}"

    monkeypatch.setattr(checking, "hint", fake)
    done = run("hint", "softmax")
    assert (done.exit_code, done.stdout) == (0, "softmax: [hint] in work\n")
    assert Path.cwd() == course.root


def test_hint_for_a_wrong_name(course: Workspace) -> None:
    done = run("hint", "sofmax")
    assert done.exit_code == 2
    assert done.stderr == "transformer-lab: no exercise 'sofmax'. Did you mean softmax?\n"
    assert "There are: softmax, entropy, attention." in run("hint", "xyz").stderr


def test_progress(course: Workspace) -> None:
    assert "02_softmax 0 of 2 not started" in words_of(run("progress").stdout)
    course.start("02_softmax")
    progress = Progress(course.work)
    for name, status in [("softmax", "pass"), ("softmax", "fail"), ("entropy", "pass")]:
        progress.record("02_softmax", name, status)
    shown = words_of(run("progress").stdout)
    assert "02_softmax 1 of 2 ✗ softmax (was solved before) ✓ entropy" in shown
    assert "05_attention 0 of 1 not started" in shown


def test_damaged_progress_is_told(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    course.start_missing()
    pretend_runs(monkeypatch, softmax="pass", entropy="pass", attention="pass")
    for words in (["progress"], ["check"]):
        (course.work / "progress.json").write_text("{", encoding="utf-8")
        done = run(*words)
        assert done.exit_code == 0 and "was damaged" in done.stderr
    assert (course.work / "progress.corrupt-2.json").read_text(encoding="utf-8") == "{"


def test_reset_asks_and_keeps(course: Workspace) -> None:
    path, _ = course.start("05_attention")
    path.write_text("mine", encoding="utf-8")
    for answer in ("n\n", "\n", ""):
        assert run("reset", "5", typed=answer).exit_code == 1
        assert path.read_text(encoding="utf-8") == "mine"
    done = run("reset", "5", typed="y\n")
    assert done.exit_code == 0 and "Yours is kept as work/backups/05_attention." in done.stdout
    (backup,) = (course.work / "backups").iterdir()
    assert backup.read_text(encoding="utf-8") == "mine"
    assert path.read_bytes() == course.exercise_path("05_attention").read_bytes()
    assert run("reset", "attention", "--yes").exit_code == 0
    assert len(list((course.work / "backups").iterdir())) == 2
    assert run("reset", "2").exit_code == 0  # nothing to replace, nothing to ask
    assert run("reset").exit_code == 2


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor(monkeypatch: pytest.MonkeyPatch, level: str, code: int) -> None:
    findings = [doctor.Finding("torch", level, "[found]", "pip install -e .")]  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda workspace: findings)
    done = run("doctor")
    assert done.exit_code == code
    assert "torch [found] pip install -e ." in words_of(done.stdout)
