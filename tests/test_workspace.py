"""Course folders made by the test; what a learner wrote must survive everything."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from transformer_lab import workspace as module
from transformer_lab.workspace import Workspace, WorkspaceError, code_cells, find_root

FRESH = [
    "from transformer_lab.checking import check",
    "def attention():\n    ...",
    "check(attention)",
]
NOON = datetime(2026, 11, 20, 15, 30, 0)


def notebook(cells: list[str]) -> str:
    """A notebook as JupyterLab writes it: each source is a list of lines."""
    made: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "source": text.splitlines(keepends=True),
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for text in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def course(tmp_path: Path) -> Workspace:
    root = tmp_path / "course"
    for folder in ("exercises", "notebooks", "solutions"):
        (root / folder).mkdir(parents=True)
    for name in ("05_attention", "02_softmax", "00_start_here"):
        (root / "exercises" / f"{name}.ipynb").write_text(notebook(FRESH), encoding="utf-8")
    (root / "exercises" / "scratch.ipynb").write_text("{}", encoding="utf-8")
    return Workspace(root)


def test_root_is_found_from_a_folder_below(course: Workspace) -> None:
    deep = course.root / "work" / "backups"
    deep.mkdir(parents=True)
    assert find_root(deep) == find_root(course.root) == course.root.resolve()


def test_root_of_the_installed_checkout_is_the_second_choice(
    course: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(module, "__file__", str(course.root / "transformer_lab" / "workspace.py"))
    assert find_root(elsewhere) == course.root.resolve()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "t" / "workspace.py"))
    with pytest.raises(WorkspaceError, match="Go to the course folder") as error:
        find_root(elsewhere)
    assert str(elsewhere) in str(error.value)


def test_lessons_are_sorted_and_nothing_else_is_one(course: Workspace) -> None:
    assert course.lessons() == ["00_start_here", "02_softmax", "05_attention"]


@pytest.mark.parametrize(
    "text",
    [
        "05",
        "5",
        "attention",
        "05_attention",
        "05_Attention.ipynb",
        "work/05_attention.ipynb",
        " 5 ",
    ],
)
def test_find_takes_what_a_learner_types(course: Workspace, text: str) -> None:
    assert course.find(text) == "05_attention"


@pytest.mark.parametrize("text", ["7", "atention", "", "_", "٥٥", "-5", "[", "05_"])
def test_find_names_the_lessons_that_exist(course: Workspace, text: str) -> None:
    with pytest.raises(WorkspaceError, match="02_softmax, 05_attention"):
        course.find(text)


def test_find_zero_and_ambiguous(course: Workspace) -> None:
    assert course.find("0") == course.find("00") == "00_start_here"
    (course.exercises / "15_attention.ipynb").write_text(notebook([]), encoding="utf-8")
    with pytest.raises(WorkspaceError, match="05_attention, 15_attention go by it"):
        course.find("attention")


def test_find_without_any_exercises(course: Workspace) -> None:
    for path in course.exercises.iterdir():
        path.unlink()
    with pytest.raises(WorkspaceError, match="make notebooks"):
        course.find("5")


def test_exercise_names_in_order_once_and_only_calls(course: Workspace) -> None:
    cells = [
        "check(softmax)",
        "x = 1\ncheck(LayerNorm)  # again",
        "# check(commented)\n    check(indented)\nr = check(assigned)\nrecheck(other)",
        "check(softmax)\ncheck(entropy)",
    ]
    content = json.loads(notebook(cells))
    content["cells"].insert(0, {"cell_type": "markdown", "source": "check(prose)", "metadata": {}})
    content["cells"][1]["source"] = "check(softmax)"  # a string is allowed too
    course.exercise_path("05_attention").write_text(json.dumps(content), encoding="utf-8")
    assert course.exercise_names("05_attention") == ["softmax", "LayerNorm", "entropy"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "should be JSON"), (b"\xff\xfe", "should be JSON"), (b"[]", "list"), (b"{}", "list")],
)
def test_damaged_notebook_is_answered_in_words(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "05_attention.ipynb"
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=says):
        code_cells(path)
    with pytest.raises(WorkspaceError, match="there is no notebook"):
        code_cells(tmp_path / "none.ipynb")


def test_start_copies_once_and_never_overwrites(course: Workspace) -> None:
    path, made = course.start("05_attention")
    assert made and path == course.work / "05_attention.ipynb"
    assert path.read_bytes() == course.exercise_path("05_attention").read_bytes()
    path.write_text("mine", encoding="utf-8")
    assert course.start("05_attention") == (path, False)
    assert path.read_text(encoding="utf-8") == "mine"


def test_start_missing_leaves_what_is_there(course: Workspace) -> None:
    course.start("02_softmax")
    course.work_path("02_softmax").write_text("mine", encoding="utf-8")
    assert [made for _, made in course.start_missing()] == [True, False, True]
    assert course.work_path("02_softmax").read_text(encoding="utf-8") == "mine"
    assert course.started() == course.lessons()


def test_a_copy_that_fails_halfway_leaves_no_half_file(
    course: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", _disk_full)
    with pytest.raises(WorkspaceError, match="No space left"):
        course.start("05_attention")
    assert not course.work_path("05_attention").exists()


def test_work_that_is_no_folder_is_an_error(course: Workspace) -> None:
    course.work.touch()
    with pytest.raises(WorkspaceError, match="could not be made"):
        course.start("05_attention")


def test_reset_keeps_a_dated_backup(course: Workspace) -> None:
    path, _ = course.start("05_attention")
    kept = []
    for text in ("first", "second", "third"):
        path.write_text(text, encoding="utf-8")
        done = course.reset("05_attention", NOON)
        assert done.path == path and done.backup is not None
        assert path.read_bytes() == course.exercise_path("05_attention").read_bytes()
        kept.append(done.backup)
    assert [backup.name for backup in kept] == [
        "05_attention.2026-11-20-153000.ipynb",
        "05_attention.2026-11-20-153000-2.ipynb",
        "05_attention.2026-11-20-153000-3.ipynb",
    ]
    assert [backup.read_text(encoding="utf-8") for backup in kept] == ["first", "second", "third"]


def test_reset_of_a_lesson_not_started_starts_it(course: Workspace) -> None:
    assert course.reset("05_attention").backup is None
    assert course.work_path("05_attention").exists()
    assert not (course.work / "backups").exists()


@pytest.mark.parametrize("failing_write", [1, 2])
def test_reset_that_fails_leaves_the_learners_file(
    course: Workspace, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    path, _ = course.start("05_attention")
    path.write_text("mine", encoding="utf-8")
    calls = iter(range(1, 9))
    monkeypatch.setattr(
        "os.fsync", lambda fd: _disk_full() if next(calls) == failing_write else None
    )
    with pytest.raises(WorkspaceError, match="left as it was"):
        course.reset("05_attention", NOON)
    assert path.read_text(encoding="utf-8") == "mine"
    assert sorted(each.name for each in course.work.iterdir()) == ["05_attention.ipynb", "backups"]


def test_reset_after_a_killed_one_overwrites_its_remains(course: Workspace) -> None:
    course.start("05_attention")
    (course.work / ".05_attention.ipynb.new").write_text("half", encoding="utf-8")
    course.reset("05_attention", NOON)
    assert not (course.work / ".05_attention.ipynb.new").exists()
    assert code_cells(course.work_path("05_attention")) == FRESH


def test_missing_exercises_are_answered_before_anything_changes(course: Workspace) -> None:
    path, _ = course.start("05_attention")
    course.exercise_path("05_attention").unlink()
    for act in (course.start, course.reset):
        with pytest.raises(WorkspaceError, match="could not be read"):
            act("05_attention")
    assert path.exists()


def _disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device", "05_attention.ipynb")
