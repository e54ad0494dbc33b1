"""The build, on a course of one small lesson."""

import json

import pytest

from tests.tools.test_sources import EXERCISES, HEAD
from tools.build import BuildError, build, clean, is_stale, read, statuses
from tools.sources import plan

LESSON = (
    HEAD
    + """# A lesson

```{code-cell}
import matplotlib.pyplot as plt

print("one")
print("two")
```

```{code-cell}
plt.plot([0, 1])
plt.show()
```

```{code-cell}
:tags: [raises-exception]

import torch

torch.ones(2) @ torch.ones(3)
```
"""
)
ANSWER = """
```{code-cell}
from transformer_lab.checking import check


def proportions(counts):
    ### BEGIN SOLUTION
    return counts / counts.sum(dim=1, keepdim=True)
    ### END SOLUTION
```

```{code-cell}
check(proportions)
```
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "lessons").mkdir()
    (tmp_path / "transformer_lab").mkdir()
    return tmp_path


def planned(root, text, name="01_x.md"):
    (root / "lessons" / name).write_text(text, encoding="utf-8")
    return plan(root)


def test_a_second_build_gives_the_same_bytes(root):
    (first,) = planned(root, LESSON)
    assert is_stale(first, root)
    build(first, root)
    (again,) = plan(root)
    assert not is_stale(again, root)
    before = (root / again.path).read_bytes()
    build(again, root)
    assert (root / again.path).read_bytes() == before


def test_what_is_stored_says_nothing_of_the_machine(root):
    (lesson,) = planned(root, LESSON)
    build(lesson, root)
    text = (root / lesson.path).read_text(encoding="utf-8")
    assert str(root) not in text
    assert "execution_state" not in text
    assert '"execution"' not in text
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    printed = notebook["cells"][1]["outputs"]
    assert [output["text"] for output in printed] == [["one\n", "two\n"]]
    assert not list((root / "notebooks").glob("*.part"))


def test_changed_text_is_stale(root):
    (lesson,) = planned(root, LESSON)
    build(lesson, root)
    (changed,) = planned(root, LESSON.replace("two", "three"))
    assert is_stale(changed, root)


def test_changed_package_is_stale_where_it_is_known(root):
    (lesson,) = planned(root, LESSON)
    build(lesson, root)
    stamp = root / ".cache" / "notebooks_built_with"
    stamp.parent.mkdir()
    stamp.write_text("of another package")
    assert is_stale(lesson, root)


def test_error_in_an_untagged_cell_stops_the_build_and_keeps_the_old_file(root):
    (lesson,) = planned(root, LESSON)
    build(lesson, root)
    before = (root / lesson.path).read_bytes()
    (broken,) = planned(root, LESSON.replace('print("two")', "1 / 0"))
    with pytest.raises(BuildError, match="ZeroDivisionError"):
        build(broken, root)
    assert (root / lesson.path).read_bytes() == before


def test_lesson_over_its_time_stops_the_build(root):
    (lesson,) = planned(root, LESSON.replace("seconds: 20", "seconds: 0.01"))
    with pytest.raises(BuildError, match=r"the head of 01_x\.md allows 0 s"):
        build(lesson, root)


def test_solution_that_fails_its_check_stops_the_build(root):
    wrong = (HEAD + ANSWER).replace("dim=1", "dim=0")
    solution, _ = planned(root, wrong, "01_x.exercises.md")
    with pytest.raises(BuildError, match=r"check\(proportions\) answers 'fail'.*'pass'"):
        build(solution, root)


def test_exercise_is_built_unwritten(root):
    _, exercise = planned(root, HEAD + ANSWER, "01_x.exercises.md")
    build(exercise, root)
    assert statuses(read(root / exercise.path)) == [("proportions", "todo")]


def test_paths_of_a_machine_are_taken_out_of_tracebacks(root):
    (lesson,) = planned(root, EXERCISES.replace("    ### BEGIN SOLUTION\n", "").replace(
        "    ### END SOLUTION\n", ""))  # fmt: skip
    cell = lesson.notebook.cells[1]
    cell.outputs = [
        {
            "output_type": "error",
            "ename": "E",
            "evalue": "",
            "traceback": [
                f"{root}/lessons/x.py",
                "/somewhere/.venv/lib/python3.11/site-packages/t.py",
            ],
        }
    ]
    from nbformat import from_dict

    lesson.notebook.cells[1] = from_dict(cell)
    clean(lesson.notebook, root)
    assert lesson.notebook.cells[1].outputs[0].traceback == [
        "./lessons/x.py",
        "…/site-packages/t.py",
    ]
