"""Each probe, on machines that are broken in one way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from transformer_lab import doctor
from transformer_lab.workspace import Workspace


@pytest.fixture
def course(tmp_path: Path) -> Workspace:
    for folder in ("exercises", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "exercises" / "02_softmax.ipynb").write_text("{}", encoding="utf-8")
    return Workspace(tmp_path)


@pytest.fixture(autouse=True)
def fresh_probe_of_torch() -> None:
    doctor._torch.cache_clear()


def pretend_torch(
    monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "", code: int = 0
) -> None:
    """Put a made-up second process in the place of the one that imports torch."""

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, stdout, stderr)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cpu")


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 9, 20), "fail"),
        ((3, 10, 0), "ok"),
        ((3, 11, 7), "ok"),
        ((3, 13, 5), "ok"),
        ((3, 14, 0), "warn"),
    ],
)
def test_python_version(version: tuple[int, ...], level: str) -> None:
    finding = doctor.probe_python(version)
    assert finding.level == level
    assert finding.found.startswith(".".join(map(str, version)))
    assert bool(finding.mend) == (level != "ok")


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert doctor.probe_environment().level == "ok"
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert doctor.probe_environment().level == "warn"
    (tmp_path / "conda-meta").mkdir()
    assert doctor.probe_environment() == ("environment", "ok", f"conda: {tmp_path}", "")


def test_packages_against_the_pins(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "2.1.0+cpu" if name == "torch" else "1.0")
    assert doctor.probe_packages(course).level == "ok"  # no constraints.txt: nothing to compare
    pins = "# made by hand\nnumpy==1.0\ntorch==2.1.0\nmatplotlib==1.1 # why\n"
    (course.root / "constraints.txt").write_text(pins, encoding="utf-8")
    finding = doctor.probe_packages(course)
    assert (finding.level, finding.found) == ("warn", "matplotlib 1.0 (not 1.1)")
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "nbval" else "1.0")
    finding = doctor.probe_packages(course)
    assert (finding.level, finding.found) == ("fail", "not installed: nbval")
    assert "pip install" in finding.mend


def test_torch_that_imports(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"version": "2.13.0+cpu", "devices": ["cuda: Some Card", "mps"]}
    pretend_torch(monkeypatch, "a line of another package\n" + json.dumps(answer))
    assert doctor.probe_torch(course) == ("torch", "ok", "2.13.0+cpu, imports", "")
    assert doctor.probe_gpu().found == "cuda: Some Card, mps"
    (course.root / "constraints.txt").write_text("torch==2.12.0\n", encoding="utf-8")
    finding = doctor.probe_torch(course)
    assert finding.level == "warn" and "made with 2.12.0" in finding.found


def test_torch_that_fails_to_import(course: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, "", "Traceback\nOSError: libtorch.so is missing\n", code=1)
    finding = doctor.probe_torch(course)
    assert finding.level == "fail" and "OSError: libtorch.so is missing" in finding.found
    assert "--force-reinstall torch==2.13.0" in finding.mend
    assert doctor.probe_gpu().level == "ok"


def test_torch_that_crashes_hangs_or_is_not_there(
    course: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_torch(monkeypatch, "", code=-11)
    assert "ended with code -11" in doctor.probe_torch(course).found
    doctor._torch.cache_clear()

    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr("subprocess.run", hang)
    assert "more than" in doctor.probe_torch(course).found
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor.probe_torch(None) == doctor.probe_torch(course)
    assert doctor.probe_torch(None).found == "not installed"


def kernel(folder: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    """Let Jupyter see one kernel alone: python3 with the given command."""
    from jupyter_client import kernelspec

    monkeypatch.setattr(kernelspec.KernelSpecManager, "kernel_dirs", [str(folder)])
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (folder / "python3").mkdir()
    (folder / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def test_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client import kernelspec

    def none(self: object, name: str) -> None:
        raise kernelspec.NoSuchKernel(name)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    finding = doctor.probe_kernel()
    assert finding.level == "fail" and "there is no kernel" in finding.found


@pytest.mark.parametrize(
    ("argv", "level", "found"),
    [
        ([], "fail", "names no program"),
        (["python", "-m", "ipykernel_launcher"], "ok", "this Python"),
        ([sys.executable, "-m", "ipykernel_launcher"], "ok", "this Python"),
        (["OTHER", "-m", "ipykernel_launcher"], "fail", "another Python"),
        (["OTHER-gone", "-m", "ipykernel_launcher"], "fail", "is gone"),
    ],
)
def test_kernel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    level: str,
    found: str,
) -> None:
    other = tmp_path / "bin" / "python"
    other.parent.mkdir()
    other.touch()
    kernel(tmp_path, monkeypatch, [part.replace("OTHER", str(other)) for part in argv])
    finding = doctor.probe_kernel()
    assert finding.level == level and found in finding.found
    assert bool(finding.mend) == (level != "ok")


def test_disk(course: Workspace) -> None:
    assert doctor.probe_disk(course, needed=1).level == "ok"
    finding = doctor.probe_disk(course, needed=2**70)
    assert finding.level == "warn" and "Free some space" in finding.mend
    assert doctor.probe_disk(None, needed=1).level == "ok"


def test_work_folder_and_exercises(course: Workspace) -> None:
    assert doctor.probe_work(course).level == "warn"
    assert doctor.probe_exercises(course).found == "0 of 1 lessons copied to work/"
    course.start_missing()
    assert doctor.probe_work(course).level == "ok"
    assert doctor.probe_exercises(course).level == "ok"
    assert [path.name for path in course.work.iterdir()] == ["02_softmax.ipynb"]
    course.exercise_path("02_softmax").unlink()
    assert doctor.probe_exercises(course).level == "fail"


def test_work_folder_that_can_not_be_written_to(
    course: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    course.start_missing()

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    finding = doctor.probe_work(course)
    assert finding.level == "fail" and "Permission denied" in finding.found


def test_a_probe_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such luck")

    names = [name for name in vars(doctor) if name.startswith("probe_")]
    for name in names:
        monkeypatch.setattr(doctor, name, fail)
    findings = doctor.examine(None)
    assert len(findings) == len(names)
    assert {finding.level for finding in findings} == {"warn"}
    assert all("RuntimeError: no such luck" in finding.found for finding in findings)


def test_this_machine_with_and_without_a_course(course: Workspace) -> None:
    for workspace in (course, None):
        findings = {finding.name: finding for finding in doctor.examine(workspace)}
        assert not any("could not be examined" in each.found for each in findings.values())
        assert findings["torch"].level != "fail"
        assert findings["course folder"].level == ("fail" if workspace is None else "ok")
