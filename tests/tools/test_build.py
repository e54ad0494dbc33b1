"""The build, on a course of one small lesson."""

import json
import shutil

import pytest
from nbformat import from_dict

from tests.tools.test_sources import EXERCISES, HEAD
from tools.build import BuildError, build, clean, is_stale, read, retell, statuses
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

1 / 0
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


def course(root):
    """An empty course in a folder."""
    (root / "lessons").mkdir()
    (root / "transformer_lab").mkdir()
    return root


def planned(root, text, name="01_x.md"):
    (root / "lessons" / name).write_text(text, encoding="utf-8")
    return plan(root)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A course whose lesson is built; tests leave it as it is."""
    root = course(tmp_path_factory.mktemp("course"))
    (lesson,) = planned(root, LESSON)
    assert is_stale(lesson, root)
    build(lesson, root)
    return root


@pytest.fixture
def root(tmp_path):
    return course(tmp_path)


@pytest.fixture
def copy_of_built(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def test_a_second_build_gives_the_same_bytes(copy_of_built):
    root = copy_of_built
    (again,) = plan(root)
    assert not is_stale(again, root)
    before = (root / again.path).read_bytes()
    build(again, root)
    assert (root / again.path).read_bytes() == before


def test_what_is_stored_says_nothing_of_the_machine(built):
    (lesson,) = plan(built)
    text = (built / lesson.path).read_text(encoding="utf-8")
    assert str(built) not in text
    assert "execution_state" not in text
    assert '"execution"' not in text
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    printed = notebook["cells"][1]["outputs"]
    assert [output["text"] for output in printed] == [["one\n", "two\n"]]
    assert not list((built / "notebooks").glob("*.part"))


def test_changed_text_is_stale(copy_of_built):
    (changed,) = planned(copy_of_built, LESSON.replace("two", "three"))
    assert is_stale(changed, copy_of_built)


def test_changed_package_is_stale_where_it_is_known(copy_of_built):
    (lesson,) = plan(copy_of_built)
    stamp = copy_of_built / ".cache" / "notebooks_built_with"
    stamp.parent.mkdir()
    stamp.write_text("of another package")
    assert is_stale(lesson, copy_of_built)


def test_error_in_an_untagged_cell_stops_the_build_and_keeps_the_old_file(copy_of_built):
    root = copy_of_built
    (lesson,) = plan(root)
    before = (root / lesson.path).read_bytes()
    (broken,) = planned(root, LESSON.replace('print("two")', "1 / 0"))
    with pytest.raises(BuildError, match="ZeroDivisionError"):
        build(broken, root)
    assert (root / lesson.path).read_bytes() == before


def test_lesson_over_its_time_stops_the_build(root):
    (lesson,) = planned(root, HEAD.replace("seconds: 20", "seconds: 0.01") + "# A lesson\n")
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
    lesson.notebook.cells[1] = from_dict(cell)
    clean(lesson.notebook, root)
    assert lesson.notebook.cells[1].outputs[0].traceback == [
        "./lessons/x.py",
        "…/site-packages/t.py",
    ]


def test_new_prose_keeps_the_outputs(tmp_path):
    root = course(tmp_path)
    first = planned(root, LESSON)[0]
    build(first, root)
    stored = (root / first.path).read_bytes()
    assert retell(planned(root, LESSON)[0], root)
    assert (root / first.path).read_bytes() == stored  # the same text, byte for byte
    again = planned(root, LESSON.replace("# A lesson", "# Another title"))[0]
    assert retell(again, root)
    now = read(root / first.path)
    assert now.cells[0].source == "# Another title"
    outputs = [cell.outputs for cell in first.notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in now.cells if cell.cell_type == "code"] == outputs


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('print("two")', 'print("three")'),
        (":tags: [raises-exception]\n\n1 / 0", "1 / 1"),
        ("```{code-cell}\nplt.plot([0, 1])\nplt.show()\n```\n", ""),
    ],
)
def test_new_code_has_to_run(tmp_path, old, new):
    root = course(tmp_path)
    first = planned(root, LESSON)[0]
    build(first, root)
    stored = (root / first.path).read_bytes()
    assert old in LESSON
    assert not retell(planned(root, LESSON.replace(old, new))[0], root)
    assert (root / first.path).read_bytes() == stored
    assert not retell(planned(root, LESSON, name="02_y.md")[-1], root)  # never built
