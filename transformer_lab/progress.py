"""What a learner has solved so far: one small JSON file, `work/progress.json`.

A notebook's kernel and the command line may write at the same moment, so a change is made under a
lock, to a second file that is then moved over the first. A reader therefore needs no lock: it
finds the file before the change or after it, never half of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from transformer_lab.workspace import is_course_root, reason_of

VERSION = 1
STATUSES = ("todo", "fail", "pass")  # from the least to the best

_LOCK_SECONDS = 5.0
_FILE = "progress.json"


class ProgressError(Exception):
    """Progress could not be read or written; the message is for the learner."""


@dataclass(frozen=True)
class ExerciseProgress:
    """One exercise: the last verdict, the best one, and how many answers were checked.

    A check of an untouched stub ('todo') is no attempt.
    """

    lesson: str
    status: str
    best: str
    attempts: int


@dataclass(frozen=True)
class State:
    """All that the file holds: exercises, and the number of hints seen, by exercise name."""

    exercises: dict[str, ExerciseProgress] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)


class Progress:
    """The progress file of one `work/` folder.

    `tell` is called with a sentence when a damaged file was put aside; by default it is dropped.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] | None = None) -> None:
        self.path = Path(folder) / _FILE
        self._tell = tell or (lambda sentence: None)

    def read(self) -> State:
        """Read the file; without one, nothing has been done yet.

        Raises: ProgressError if it can't be read, or a newer version of the course wrote it.
        """
        state = self._load()
        if state is not None:
            return state
        with self._locked():
            return self._load_or_put_aside()

    def record(self, lesson: str, name: str, status: str) -> None:
        """Write down the verdict on one exercise: 'pass', 'fail' or 'todo'.

        Raises: ValueError if the status is none of these; ProgressError if it could not be written
            down.
        """
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {status!r}.")
        with self._locked():
            state = self._load_or_put_aside()
            before = state.exercises.get(name, ExerciseProgress(lesson, "todo", "todo", 0))
            after = ExerciseProgress(
                lesson,
                status,
                best=max(before.best, status, key=STATUSES.index),
                attempts=before.attempts + (status != "todo"),
            )
            self._save(replace(state, exercises={**state.exercises, name: after}))

    def next_hint(self, name: str) -> int:
        """Count one more hint seen for an exercise, and return how many that makes.

        Raises: ProgressError if it could not be written down.
        """
        with self._locked():
            state = self._load_or_put_aside()
            seen = state.hints.get(name, 0) + 1
            self._save(replace(state, hints={**state.hints, name: seen}))
        return seen

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS, poll_interval=0.01)
        try:
            lock.acquire()
        except Timeout:
            raise ProgressError(
                f"progress was not written down: another program held {self.path.name}.lock for "
                f"{_LOCK_SECONDS:.0f} seconds. Close other notebooks of the course and check again."
            ) from None
        except (OSError, NotImplementedError) as error:  # the latter: a disk without locks
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _load(self) -> State | None:
        """Read the file; None if what it holds is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise ProgressError(
                f"{self.path} could not be read: {reason_of(error)}. "
                "See to it that you may read the files in work/."
            ) from error
        try:
            return _parse(json.loads(content.decode("utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _load_or_put_aside(self) -> State:
        """Read the file under the lock; a damaged one is kept under another name."""
        state = self._load()
        if state is not None:
            return state
        number = 1
        while (kept := self.path.with_name(f"progress.corrupt-{number}.json")).exists():
            number += 1
        try:
            self.path.rename(kept)
        except OSError as error:
            raise self._unwritable(error) from error
        self._tell(
            f"{self.path} was damaged and could not be read. It is kept as {kept.name}; progress "
            "starts afresh. Your notebooks are untouched: `transformer-lab check` fills it again."
        )
        return State()

    def _save(self, state: State) -> None:
        content = {"version": VERSION, **asdict(state)}
        # One fixed name is enough under the lock, and what a killed process leaves is overwritten.
        temporary = self.path.with_name(f"{_FILE}.tmp")
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                json.dump(content, file, indent=1, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            _move(temporary, self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError | NotImplementedError) -> ProgressError:
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        return ProgressError(
            f"progress was not written down in {self.path.parent}: {why}. "
            "See to it that the folder exists, that you may write there and that the disk has room."
        )


def folder_of_learner() -> Path | None:
    """Give the `work/` folder of the course if the current folder is in it, else None.

    Checks that run elsewhere (in the solutions, in a lesson) are not the learner's own. With
    TRANSFORMER_LAB_NO_PROGRESS=1 in the environment it is None everywhere.
    """
    if os.environ.get("TRANSFORMER_LAB_NO_PROGRESS", "0") not in ("", "0"):
        return None
    try:
        here = Path.cwd()
    except OSError:  # the current folder was deleted
        return None
    for folder in (here, *here.parents):
        if folder.name == "work" and is_course_root(folder.parent):
            return folder
    return None


def _parse(content: Any) -> State:
    """Turn the file's content into a State, by an error of any built-in kind if it is damaged."""
    version = content["version"]
    if not isinstance(version, int):
        raise TypeError("version")
    if version > VERSION:
        # Not damaged, so not put aside: an older course must not hide what a newer one wrote.
        raise ProgressError(
            f"progress.json is of version {version}, and this course knows up to {VERSION}. "
            "Update the course: a newer one wrote this file."
        )
    exercises = {
        str(name): ExerciseProgress(
            lesson=_a(str, entry["lesson"]),
            status=_a_status(entry["status"]),
            best=_a_status(entry["best"]),
            attempts=_a(int, entry["attempts"]),
        )
        for name, entry in content["exercises"].items()
    }
    hints = {str(name): _a(int, seen) for name, seen in content["hints"].items()}
    return State(exercises, hints)


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


def _a_status(value: Any) -> str:
    if value not in STATUSES:
        raise ValueError(value)
    return str(value)


def _move(source: Path, target: Path) -> None:
    """Move a file over another; on Windows, wait until no reader has that one open."""
    for _ in range(50):
        try:
            source.replace(target)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(0.02)
        else:
            return
    source.replace(target)
