"""Reads the authored text in lessons/ and makes notebooks of it, not yet executed.

lessons/05_attention.md              → notebooks/05_attention.ipynb
lessons/05_attention.exercises.md    → solutions/05_attention.ipynb, with the solutions
                                       exercises/05_attention.ipynb, without
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "raise NotImplementedError  # your code here, in place of this line"

_NAME = re.compile(r"(?P<lesson>\d\d_[a-z0-9_]+)(?P<exercises>\.exercises)?\.md")
_CHECK = re.compile(r"^check\((\w+)\)", re.MULTILINE)
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


Edit = Callable[[str, str], str]


class SourceError(ValueError):
    """The authored text can't be made into notebooks; the message says where and why."""


@dataclass(frozen=True)
class Planned:
    """A notebook as it is to be, before its cells have run.

    Attributes:
        path: Where it goes, relative to the root: notebooks/05_attention.ipynb.
        source: The text it is made of.
        notebook: Its cells, without outputs.
        seconds: The longest it may run on two cores.
    """

    path: Path
    source: Path
    notebook: NotebookNode
    seconds: float


def plan(root: Path = ROOT, only: str = "") -> list[Planned]:
    """All notebooks that the texts in lessons/ give, or those of one lesson.

    Args:
        root: The checkout.
        only: Start of a lesson's name, such as "05"; all when empty.

    Raises: SourceError if a text is malformed, two lessons have one number, or two exercises one
        name.
    """
    sources = sorted((root / "lessons").glob("*.md"))
    _check_names(sources)
    planned = [each for source in sources for each in read(source)]
    _check_exercise_names(planned)
    chosen = [each for each in planned if each.path.name.startswith(only)]
    if not chosen:
        lessons = ", ".join(sorted({each.path.stem for each in planned}))
        raise SourceError(f"no lesson starts with {only!r}. There are: {lessons}.")
    return chosen


def read(source: Path) -> list[Planned]:
    """The notebooks that one text gives."""
    try:
        notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="md:myst")
    except Exception as error:  # jupytext's own errors have no common class
        raise SourceError(f"{source.name}: jupytext can't read it: {error}") from error
    seconds = notebook.metadata.get("lesson", {}).get("seconds")
    if not isinstance(seconds, int | float):
        raise SourceError(
            f"{source.name}: its head must say how long it may run, as `lesson:` with `seconds: 20` below it."
        )
    match = _NAME.fullmatch(source.name)
    assert match is not None, "names are checked before texts are read"
    lesson = match["lesson"]
    if not match["exercises"]:
        return [
            Planned(
                Path("notebooks") / f"{lesson}.ipynb",
                source,
                _made(notebook, source, _kept),
                seconds,
            )
        ]
    return [
        Planned(Path(folder) / f"{lesson}.ipynb", source, _made(notebook, source, edit), seconds)
        for folder, edit in (("solutions", with_solution), ("exercises", without_solution))
    ]


def with_solution(code: str, where: str) -> str:
    """Take out the markers and leave what stands between them.

    Raises: SourceError if the markers are not in pairs.
    """
    _check_markers(code, where)
    return "\n".join(line for line in code.splitlines() if line.strip() not in (BEGIN, END))


def without_solution(code: str, where: str) -> str:
    """Put a stub in place of each solution.

    Raises: SourceError if the markers are not in pairs.
    """
    _check_markers(code, where)
    kept: list[str] = []
    inside = False
    for line in code.splitlines():
        mark = line.strip()
        if mark == BEGIN:
            kept.append(line[: len(line) - len(line.lstrip())] + STUB)
        if mark in (BEGIN, END):
            inside = mark == BEGIN
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def exercise_names(notebook: NotebookNode) -> list[str]:
    """Names of the exercises that a notebook checks, in order."""
    return [
        name
        for cell in notebook.cells
        if cell.cell_type == "code"
        for name in _CHECK.findall(cell.source)
    ]


def _kept(code: str, where: str) -> str:
    if BEGIN in code or END in code:
        raise SourceError(
            f"{where}: solution markers belong into NN_name.exercises.md, not into a lesson."
        )
    return code


def _check_markers(code: str, where: str) -> None:
    open_since = 0
    for number, line in enumerate(code.splitlines(), start=1):
        mark = line.strip()
        if mark == BEGIN and open_since:
            raise SourceError(
                f"{where}, line {number}: {BEGIN} again; the one of line {open_since} is still open."
            )
        if mark == END and not open_since:
            raise SourceError(f"{where}, line {number}: {END} without a {BEGIN} before it.")
        if mark in (BEGIN, END):
            open_since = number if mark == BEGIN else 0
        elif "BEGIN SOLUTION" in line or "END SOLUTION" in line:
            raise SourceError(
                f"{where}, line {number}: write {BEGIN} or {END} on a line of its own, not {mark!r}."
            )
    if open_since:
        raise SourceError(f"{where}, line {open_since}: {BEGIN} without an {END} after it.")


def _made(notebook: NotebookNode, source: Path, edit: Edit) -> NotebookNode:
    made = NotebookNode(nbformat=4, nbformat_minor=5, metadata=NotebookNode(_METADATA), cells=[])
    for position, cell in enumerate(notebook.cells):
        where = f"{source.name}, cell {position + 1}"
        code = cell.cell_type == "code"
        tags = {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}
        new = NotebookNode(
            # The same in every build, and the same in exercises/ and solutions/.
            id=hashlib.sha256(f"{source.name}:{position}".encode()).hexdigest()[:12],
            cell_type=cell.cell_type,
            metadata=NotebookNode(tags),
            source=edit(cell.source, where) if code else cell.source,
        )
        if code:
            new.execution_count, new.outputs = None, []
        made.cells.append(new)
    return made


def _check_names(sources: list[Path]) -> None:
    lessons: dict[str, str] = {}
    for source in sources:
        match = _NAME.fullmatch(source.name)
        if match is None:
            raise SourceError(
                f"{source.name}: a text is called NN_name.md or NN_name.exercises.md, in small letters."
            )
        number, lesson = match["lesson"][:2], match["lesson"]
        if lessons.setdefault(number, lesson) != lesson:
            raise SourceError(
                f"two lessons have the number {number}: {lessons[number]} and {lesson}."
            )


def _check_exercise_names(planned: list[Planned]) -> None:
    seen: dict[str, str] = {}
    for each in planned:
        if each.path.parent.name != "exercises":
            continue
        for name in exercise_names(each.notebook):
            if name in seen:
                raise SourceError(
                    f"two exercises are called {name}: in {seen[name]} and in {each.source.name}."
                )
            seen[name] = each.source.name
