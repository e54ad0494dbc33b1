"""The folders of the course, and the learner's copies in `work/`.

One rule governs this module: what a learner has written is never lost. Copies are made only where
no file is, and a reset keeps what it replaces.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import NamedTuple

_LESSON = re.compile(r"\d+_\w+")
_CHECK = re.compile(r"^check\((\w+)\)", re.MULTILINE)


class WorkspaceError(Exception):
    """What was asked for is not in the course folder, or could not be written there."""


class Started(NamedTuple):
    """The learner's copy of a lesson's exercises, and whether it was made just now."""

    path: Path
    made: bool


class Reset(NamedTuple):
    """The fresh copy, and where the earlier one is kept (None if there was none)."""

    path: Path
    backup: Path | None


def is_course_root(folder: Path) -> bool:
    """Say whether a folder is the course: it holds `exercises/` and `notebooks/`."""
    return (folder / "exercises").is_dir() and (folder / "notebooks").is_dir()


def find_root(start: Path | None = None) -> Path:
    """Find the course folder, upwards from `start` (the current folder by default).

    A folder above `start` comes first, so that a learner with two copies of the course works in
    the one they stand in. Otherwise it is the checkout that this package is installed from.

    Raises: WorkspaceError if neither is a course folder.
    """
    here = (start or Path.cwd()).resolve()
    checkout = Path(__file__).resolve().parent.parent
    for folder in (here, *here.parents, checkout):
        if is_course_root(folder):
            return folder
    raise WorkspaceError(
        f"no course folder found: neither {here} nor a folder above it holds both exercises/ and "
        "notebooks/. Go to the course folder (cd …) and run the command there."
    )


def code_cells(path: Path) -> list[str]:
    """Read the source of every code cell of a notebook, in order, without running anything.

    Raises: WorkspaceError if the file is missing, or is no notebook.
    """
    # Python's own json rather than nbformat: this runs for commands that must start at once.
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(f"there is no notebook {path}.") from None
    except OSError as error:
        raise WorkspaceError(f"{path} could not be read: {reason_of(error)}.") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise WorkspaceError(
            f"{path} is no notebook: it should be JSON, but {error}. "
            "If it was damaged, `transformer-lab reset` keeps it as a backup and makes a new copy."
        ) from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise WorkspaceError(
            f"{path} is no notebook of format 4: it should be a JSON object with a list `cells`."
        )
    return [
        _source(cell)
        for cell in cells
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]


def reason_of(error: OSError) -> str:
    """Give the reason of an operating system's error in words, without its number."""
    return error.strerror or str(error)


@dataclass(frozen=True)
class Workspace:
    """The folders of one copy of the course."""

    root: Path

    @classmethod
    def here(cls, start: Path | None = None) -> Workspace:
        """Find the course folder, upwards from `start` (the current folder by default).

        Raises: WorkspaceError if there is none.
        """
        return cls(find_root(start))

    @property
    def exercises(self) -> Path:
        """The folder of the exercises as the course ships them."""
        return self.root / "exercises"

    @property
    def work(self) -> Path:
        """The learner's own folder."""
        return self.root / "work"

    def exercise_path(self, lesson: str) -> Path:
        """Give the path of a lesson's exercises as shipped."""
        return self.exercises / f"{lesson}.ipynb"

    def work_path(self, lesson: str) -> Path:
        """Give the path of the learner's copy, which need not exist."""
        return self.work / f"{lesson}.ipynb"

    def lessons(self) -> list[str]:
        """List the lessons that have exercises, by number: `["02_softmax", "05_attention"]`."""
        names = [path.stem for path in self.exercises.glob("*.ipynb")]
        return sorted(name for name in names if _LESSON.fullmatch(name))

    def started(self) -> list[str]:
        """List the lessons that the learner has a copy of."""
        return [name for name in self.lessons() if self.work_path(name).exists()]

    def find(self, text: str) -> str:
        """Find a lesson by what a learner types: `05`, `5`, `attention` or `05_attention`.

        A path such as `work/05_attention.ipynb` is taken too, as a shell completes it.

        Raises: WorkspaceError if no lesson, or more than one, goes by that text.
        """
        lessons = self.lessons()
        wanted = PurePath(text.strip()).name.removesuffix(".ipynb").lower()
        found = [name for name in lessons if _answers_to(name, wanted)]
        if len(found) == 1:
            return found[0]
        if not lessons:
            raise WorkspaceError(f"{self.exercises} holds no exercises yet. Run `make notebooks`.")
        several = f" ({', '.join(found)} go by it)" if found else ""
        raise WorkspaceError(
            f"no lesson {text!r}{several}. There are: {', '.join(lessons)}. "
            "Give a number (05) or a name (attention)."
        )

    def exercise_names(self, lesson: str) -> list[str]:
        """List a lesson's exercises: what its cells pass to `check(…)`, in order.

        Raises: WorkspaceError if the lesson's exercises can't be read.
        """
        cells = code_cells(self.exercise_path(lesson))
        names = [name for source in cells for name in _CHECK.findall(source)]
        return list(dict.fromkeys(names))

    def start(self, lesson: str) -> Started:
        """Copy a lesson's exercises to `work/`, unless the learner has a copy.

        Raises: WorkspaceError if the copy could not be made.
        """
        target = self.work_path(lesson)
        fresh = self._fresh(lesson)
        if target.exists():
            return Started(target, made=False)
        try:
            self.work.mkdir(exist_ok=True)
            _write_new(target, fresh)
        except OSError as error:
            raise WorkspaceError(f"{target} could not be made: {reason_of(error)}.") from error
        return Started(target, made=True)

    def start_missing(self) -> list[Started]:
        """Copy the exercises of every lesson that the learner has no copy of.

        Raises: WorkspaceError if a copy could not be made.
        """
        return [self.start(name) for name in self.lessons()]

    def reset(self, lesson: str, now: datetime | None = None) -> Reset:
        """Put a fresh copy in the place of the learner's, which is kept in `work/backups/`.

        Raises: WorkspaceError if a step failed; the learner's file is then still where it was.
        """
        target = self.work_path(lesson)
        fresh = self._fresh(lesson)
        try:
            old = target.read_bytes()
        except FileNotFoundError:
            return Reset(self.start(lesson).path, backup=None)
        except OSError as error:
            raise WorkspaceError(
                f"{target} could not be read, so nothing was changed: {reason_of(error)}."
            ) from error
        temporary = self.work / f".{lesson}.ipynb.new"
        try:
            backup = self._keep(lesson, old, now or datetime.now())
            # Written beside the target and moved over it: there is no moment without a whole file.
            temporary.unlink(missing_ok=True)
            _write_new(temporary, fresh)
            temporary.replace(target)
        except OSError as error:
            raise WorkspaceError(
                f"{target} was left as it was: {error.filename} could not be written "
                f"({reason_of(error)})."
            ) from error
        return Reset(target, backup)

    def _fresh(self, lesson: str) -> bytes:
        path = self.exercise_path(lesson)
        try:
            return path.read_bytes()
        except OSError as error:
            raise WorkspaceError(f"{path} could not be read: {reason_of(error)}.") from error

    def _keep(self, lesson: str, content: bytes, now: datetime) -> Path:
        """Write a dated backup under a name that no file has."""
        backups = self.work / "backups"
        backups.mkdir(exist_ok=True)
        stem = f"{lesson}.{now:%Y-%m-%d-%H%M%S}"
        number = 1
        while True:
            path = backups / (f"{stem}.ipynb" if number == 1 else f"{stem}-{number}.ipynb")
            try:
                _write_new(path, content)
            except FileExistsError:
                number += 1
            else:
                return path


def _answers_to(lesson: str, wanted: str) -> bool:
    number, _, name = lesson.lower().partition("_")
    if wanted.isdecimal():
        return int(wanted) == int(number)
    return wanted in (lesson.lower(), name)


def _source(cell: dict[str, object]) -> str:
    """Join a cell's source, which a notebook stores as one string or as a list of lines."""
    source = cell.get("source", "")
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that doesn't exist yet; if that fails halfway, leave nothing behind."""
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            # Half a copy would be taken for the learner's work from then on.
            file.close()
            path.unlink(missing_ok=True)
            raise
