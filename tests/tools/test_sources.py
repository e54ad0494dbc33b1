"""Texts that can't become notebooks are refused in words; good ones become the same notebooks every time."""

import pytest

from tools.format_sources import format_source
from tools.glossary import glossary
from tools.sources import (
    STUB,
    SourceError,
    exercise_names,
    plan,
    read,
    with_solution,
    without_solution,
)

HEAD = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
lesson:
  seconds: 20
---
"""
EXERCISES = (
    HEAD
    + """# Exercises

```{code-cell}
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
```

```{code-cell}
:tags: [raises-exception]

check(double)
```
"""
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "lessons").mkdir()
    return tmp_path


def put(root, name, text=HEAD + "# Title\n"):
    path = root / "lessons" / name
    path.write_text(text, encoding="utf-8")
    return path


def test_lesson_and_exercises_become_three_notebooks(root):
    put(root, "01_x.md")
    put(root, "01_x.exercises.md", EXERCISES)
    paths = sorted(str(each.path.as_posix()) for each in plan(root))
    assert paths == ["exercises/01_x.ipynb", "notebooks/01_x.ipynb", "solutions/01_x.ipynb"]


def test_solution_and_exercise_differ_in_the_solution_alone(root):
    solution, exercise = read(put(root, "01_x.exercises.md", EXERCISES))
    assert [cell.id for cell in solution.notebook.cells] == [
        cell.id for cell in exercise.notebook.cells
    ]
    assert solution.notebook.cells[1].source == "def double(x):\n    return 2 * x"
    assert exercise.notebook.cells[1].source == f"def double(x):\n    {STUB}"
    assert exercise.notebook.cells[2].metadata == {"tags": ["raises-exception"]}
    assert exercise_names(exercise.notebook) == ["double"]


def test_reading_twice_gives_the_same(root):
    path = put(root, "01_x.exercises.md", EXERCISES)
    assert [each.notebook for each in read(path)] == [each.notebook for each in read(path)]


def test_each_part_of_a_class_gets_its_stub():
    code = (
        "class A:\n    def f(self):\n        ### BEGIN SOLUTION\n        a = 1\n        return a\n"
        "        ### END SOLUTION\n\n    def g(self):\n        ### BEGIN SOLUTION\n        return 2\n"
        "        ### END SOLUTION"
    )
    kept = f"class A:\n    def f(self):\n        {STUB}\n\n    def g(self):\n        {STUB}"
    assert without_solution(code, "here") == kept
    assert "SOLUTION" not in with_solution(code, "here")


@pytest.mark.parametrize("make", [with_solution, without_solution])
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("### BEGIN SOLUTION\nx = 1", "here, line 1: ### BEGIN SOLUTION without an ### END"),
        ("x = 1\n### END SOLUTION", "here, line 2: ### END SOLUTION without a ### BEGIN"),
        (
            "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
            "line 2: ### BEGIN SOLUTION again; the one of line 1 is still open",
        ),
        ("## BEGIN SOLUTION\nx = 1\n### END SOLUTION", "line 1: write ### BEGIN SOLUTION"),
        ("x = 1  ### BEGIN SOLUTION", "line 1: write ### BEGIN SOLUTION or ### END SOLUTION on a"),
    ],
)
def test_unbalanced_markers_stop_the_build(make, code, says):
    with pytest.raises(SourceError, match=says):
        make(code, "here")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"1_x.md": HEAD}, "a text is called NN_name.md"),
        ({"01_X.md": HEAD}, "a text is called NN_name.md"),
        ({"01_x.md": HEAD, "01_y.md": HEAD}, "two lessons have the number 01: 01_x and 01_y"),
        (
            {"01_x.exercises.md": EXERCISES, "02_y.exercises.md": EXERCISES},
            "two exercises are called double: in 01_x.exercises.md and in 02_y.exercises.md",
        ),
        ({"01_x.md": "# No head\n"}, "01_x.md: its head must say how long it may run"),
        (
            {"01_x.md": EXERCISES},
            "01_x.md, cell 2: solution markers belong into NN_name.exercises.md",
        ),
    ],
)
def test_malformed_texts_stop_the_build(root, files, says):
    for name, text in files.items():
        put(root, name, text)
    with pytest.raises(SourceError, match=says):
        plan(root)


def test_unknown_lesson_is_answered_with_those_that_exist(root):
    put(root, "01_x.md")
    with pytest.raises(SourceError, match=r"no lesson starts with '07'\. There are: 01_x\."):
        plan(root, only="07")


def test_only_code_cells_are_formatted():
    text = "x  =  1\n\n```{code-cell}\n:tags: [a]\n\nx  =  1\n```\n\n```python\ny  =  1\n```\n"
    assert format_source(text) == text.replace(":tags: [a]\n\nx  =  1", ":tags: [a]\n\nx = 1")


def test_glossary_takes_each_term_once_in_alphabetical_order(root):
    table = "| term | meaning | Chinese |\n|---|---|---|\n"
    put(root, "01_x.md", HEAD + table + "| mask | who sees whom | 掩码 |\n| Axis | a way | 轴 |\n")
    put(root, "02_y.md", HEAD + table + r"| mask | again | 掩码 |" + "\n| bar | $a\\|b$ | 条 |\n")
    rows = glossary(root).splitlines()[-3:]
    assert [row.split("|")[1].strip() for row in rows] == ["Axis", "bar", "mask"]
    assert "who sees whom" in rows[2]
    assert rows[1].endswith("| [02](notebooks/02_y.ipynb) |")
