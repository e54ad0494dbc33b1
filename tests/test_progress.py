"""Two programs write at once, one is killed, a file is damaged: nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from transformer_lab import progress as module
from transformer_lab.progress import (
    ExerciseProgress,
    Progress,
    ProgressError,
    State,
    folder_of_learner,
)

WRITER = """
import sys
from pathlib import Path
from transformer_lab.progress import Progress
progress = Progress(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    progress.record("02_softmax", f"{sys.argv[2]}{number % 10}", "fail")
    if number == 0:
        print("begun", flush=True)
"""


def writer(folder: Path, name: str, times: int) -> subprocess.Popen[str]:
    # The repository's own package, installed or not.
    path = os.pathsep.join(
        [str(Path(module.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(times)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_nothing_done_yet(tmp_path: Path) -> None:
    assert Progress(tmp_path).read() == State()
    assert list(tmp_path.iterdir()) == []  # reading leaves no trace


def test_record_keeps_the_best_and_counts_attempts(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    for status in ("todo", "fail", "pass", "todo", "fail"):
        progress.record("02_softmax", "softmax", status)
    progress.record("05_attention", "attention", "todo")
    assert progress.read().exercises == {
        "softmax": ExerciseProgress("02_softmax", "fail", "pass", 3),
        "attention": ExerciseProgress("05_attention", "todo", "todo", 0),
    }


def test_format_of_the_file(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.record("02_softmax", "softmax", "pass")
    assert [progress.next_hint("softmax") for _ in range(3)] == [1, 2, 3]
    assert json.loads((tmp_path / "progress.json").read_text(encoding="utf-8")) == {
        "version": 1,
        "exercises": {
            "softmax": {"lesson": "02_softmax", "status": "pass", "best": "pass", "attempts": 1}
        },
        "hints": {"softmax": 3},
    }


def test_unknown_status(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of todo, fail, pass, not 'good'"):
        Progress(tmp_path).record("02_softmax", "softmax", "good")


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [writer(tmp_path, name, 200) for name in ("a", "b")]
    assert [each.wait(60) for each in writers] == [0, 0]
    exercises = Progress(tmp_path).read().exercises
    assert {name: each.attempts for name, each in exercises.items()} == {
        f"{name}{number}": 20 for name in "ab" for number in range(10)
    }


def test_a_killed_writer_leaves_a_readable_file(tmp_path: Path) -> None:
    for delay in (0.0, 0.011, 0.023, 0.04):
        process = writer(tmp_path, "a", 100_000)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.kill()
        process.wait(10)
        told: list[str] = []
        progress = Progress(tmp_path, told.append)
        before = progress.read().exercises["a0"].attempts
        progress.record("02_softmax", "a0", "pass")  # the lock went with the process
        assert progress.read().exercises["a0"].attempts == before + 1
        assert told == []


def test_a_writer_that_stops_halfway_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(tmp_path)
    progress.record("02_softmax", "softmax", "pass")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _disk_full)
        with pytest.raises(ProgressError, match=r"No space left on device.*the disk has room"):
            progress.record("02_softmax", "softmax", "fail")
    assert progress.read().exercises["softmax"].status == "pass"
    progress.record("02_softmax", "softmax", "fail")  # over the remains of the temporary file
    assert progress.read().exercises["softmax"].status == "fail"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [
        "progress.json"
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1, "exercises": {}}',
        b'{"version": "1", "exercises": {}, "hints": {}}',
        b'{"version": 1, "exercises": {"a": 3}, "hints": {}}',
        b'{"version": 1, "exercises": {"a": {"lesson": "x"}}, "hints": {}}',
        b'{"version": 1, "exercises": [], "hints": {}}',
        b'{"version": 1, "exercises": {}, "hints": {"a": "1"}}',
    ],
)
def test_damaged_file_is_kept_and_told(tmp_path: Path, content: bytes) -> None:
    told: list[str] = []
    progress = Progress(tmp_path, told.append)
    for number in (1, 2):
        (tmp_path / "progress.json").write_bytes(content)
        if number == 1:
            assert progress.read() == State()
        else:
            progress.record("02_softmax", "softmax", "pass")
        assert (tmp_path / f"progress.corrupt-{number}.json").read_bytes() == content
    assert progress.read().exercises["softmax"].status == "pass"
    assert len(told) == 2 and "kept as progress.corrupt-2.json" in told[1]


def test_file_of_a_newer_course_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text('{"version": 2, "solved": []}', encoding="utf-8")
    with pytest.raises(ProgressError, match=r"version 2.*Update the course"):
        Progress(tmp_path).read()
    with pytest.raises(ProgressError, match="version 2"):
        Progress(tmp_path).record("02_softmax", "softmax", "pass")
    assert path.read_text(encoding="utf-8") == '{"version": 2, "solved": []}'


def test_lock_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    progress = Progress(tmp_path)
    with (
        FileLock(str(tmp_path / "progress.json.lock")),
        pytest.raises(ProgressError, match="Close other notebooks"),
    ):
        progress.record("02_softmax", "softmax", "pass")
    progress.record("02_softmax", "softmax", "pass")


def test_folder_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ProgressError, match="See to it that the folder exists"):
        Progress(file).record("02_softmax", "softmax", "pass")


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="rights of folders don't hold back this user",
)
def test_read_only_folder(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ProgressError, match="you may write there"):
            progress.record("02_softmax", "softmax", "pass")
        assert progress.read() == State()
    finally:
        tmp_path.chmod(0o700)


def test_folder_of_learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMER_LAB_NO_PROGRESS", raising=False)
    root = tmp_path.resolve() / "course"
    for folder in ("exercises", "notebooks", "solutions", "work/backups"):
        (root / folder).mkdir(parents=True)
    for folder, expected in {
        "work": root / "work",
        "work/backups": root / "work",
        "solutions": None,
        "notebooks": None,
        ".": None,
    }.items():
        monkeypatch.chdir(root / folder)
        assert folder_of_learner() == expected
    stranger = tmp_path / "work"
    stranger.mkdir()
    monkeypatch.chdir(stranger)
    assert folder_of_learner() is None
    monkeypatch.chdir(root / "work")
    monkeypatch.setenv("TRANSFORMER_LAB_NO_PROGRESS", "1")
    assert folder_of_learner() is None
    monkeypatch.setenv("TRANSFORMER_LAB_NO_PROGRESS", "0")
    assert folder_of_learner() == root / "work"


def _disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")
