"""Looks at a learner's machine and says what is wrong with it and how to mend that.

Every probe gives a finding, also when the probe itself fails: this is what runs where things are
broken. For that reason torch is imported in a second process, which a faulty library may end
without ending this one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement

from transformer_lab.workspace import Workspace, WorkspaceError, reason_of

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 13)
STORED_PYTHON = "3.11"
COURSE_PACKAGES = ("jupyterlab", "matplotlib", "nbval", "numpy", "torch")
DISK_BYTES = 3 * 1024**3

_TORCH_SECONDS = 180
_INSTALL = "python -m pip install -c constraints.txt -e ."

# Prints one line of JSON. Each device is asked on its own: a broken driver must not hide the rest.
_TORCH_PROBE = """
import json, torch
found = {"version": torch.__version__, "devices": []}
try:
    if torch.cuda.is_available():
        found["devices"].append("cuda: " + torch.cuda.get_device_name(0))
except Exception:
    pass
try:
    if torch.backends.mps.is_available():
        found["devices"].append("mps")
except Exception:
    pass
print(json.dumps(found))
"""


class Finding(NamedTuple):
    """What one probe found: `mend` says what to do, and is empty where nothing is."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def examine(workspace: Workspace | None) -> list[Finding]:
    """Run every probe; without a course folder, those that need one say so."""
    probes: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", probe_python),
        ("environment", probe_environment),
        ("packages", lambda: probe_packages(workspace)),
        ("torch", lambda: probe_torch(workspace)),
        ("GPU", probe_gpu),
        ("Jupyter kernel", probe_kernel),
        ("processor", probe_cores),
        ("memory", probe_memory),
        ("disk", lambda: probe_disk(workspace)),
        ("course folder", lambda: probe_course(workspace)),
        ("work folder", lambda: probe_work(workspace)),
        ("exercises", lambda: probe_exercises(workspace)),
    ]
    return [_guarded(name, probe) for name, probe in probes]


def probe_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Compare the Python version with those that the course is tested with."""
    text = ".".join(map(str, version))
    supported = "{}.{} to {}.{}".format(*OLDEST_PYTHON, *NEWEST_PYTHON)
    mend = f"Make a new environment with Python {STORED_PYTHON}."
    if version[:2] < OLDEST_PYTHON:
        return Finding("Python", "fail", f"{text}; the course needs {supported}", mend)
    if version[:2] > NEWEST_PYTHON:
        return Finding("Python", "warn", f"{text}; the course is tested with {supported}", mend)
    return Finding("Python", "ok", f"{text} (the stored outputs were made with {STORED_PYTHON})")


def probe_environment() -> Finding:
    """Say whether Python runs in an environment of its own."""
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return Finding("environment", "ok", f"conda: {sys.prefix}")
    if sys.prefix != sys.base_prefix:
        return Finding("environment", "ok", sys.prefix)
    return Finding(
        "environment",
        "warn",
        "the system's own Python, which other programs share",
        "In the course folder: `make lab` makes an environment, `python -m venv .venv` does too.",
    )


def probe_packages(workspace: Workspace | None) -> Finding:
    """Compare the packages that the course is made of with the versions in constraints.txt."""
    installed = {name: _version(name) for name in COURSE_PACKAGES}
    missing = [name for name, version in installed.items() if version is None]
    if missing:
        return Finding(
            "packages",
            "fail",
            f"not installed: {', '.join(missing)}",
            f"In the course folder: {_INSTALL}",
        )
    pins = _pins(workspace)
    other = [
        f"{name} {version} (not {pins[name]})"
        for name, version in installed.items()
        if version is not None and name in pins and not _same_release(version, pins[name])
    ]
    found = ", ".join(f"{name} {version}" for name, version in installed.items())
    if other:
        return Finding(
            "packages",
            "warn",
            ", ".join(other),
            "The lessons work, but outputs may differ a little from the stored ones. "
            f"For the same versions: {_INSTALL}",
        )
    return Finding("packages", "ok", found)


def probe_torch(workspace: Workspace | None) -> Finding:
    """Import torch in a second process and compare its version with the pinned one."""
    version = _version("torch")
    if version is None:
        return Finding("torch", "fail", "not installed", f"In the course folder: {_INSTALL}")
    probed, error = _torch()
    if probed is None:
        return Finding(
            "torch",
            "fail",
            f"{version} is installed, but `import torch` fails: {error}",
            f"Install it again: python -m pip install --force-reinstall torch=={_base(version)}",
        )
    pin = _pins(workspace).get("torch")
    if pin is not None and not _same_release(version, pin):
        return Finding(
            "torch",
            "warn",
            f"{version}; the stored outputs were made with {pin}",
            f"Last digits may differ. For the same ones: {_INSTALL}",
        )
    return Finding("torch", "ok", f"{version}, imports")


def probe_gpu() -> Finding:
    """Name the accelerators that torch sees, for information: the course runs without one."""
    probed, _ = _torch()
    devices = probed["devices"] if probed is not None else []
    return Finding("GPU", "ok", ", ".join(devices) or "none (none is needed)")


def probe_kernel() -> Finding:
    """Look whether the kernel that notebooks ask for, python3, runs this very Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    install = "python -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("Jupyter kernel", "fail", "there is no kernel named python3", install)
    if not spec.argv:
        found = f"{spec.resource_dir} names no program"
        return Finding("Jupyter kernel", "fail", found, install)
    program = Path(spec.argv[0])
    # Jupyter itself puts the running Python in the place of a bare name such as "python".
    if program.parent == Path():
        return Finding("Jupyter kernel", "ok", "python3 runs this Python")
    if not program.exists():
        found = f"python3 should run {program}, which is gone"
        return Finding("Jupyter kernel", "fail", found, install)
    # The folders are compared, not the files: an environment's python is often a link to the
    # system's, and the same Python goes by several names in one folder.
    if program.parent.samefile(Path(sys.executable).parent):
        return Finding("Jupyter kernel", "ok", "python3 runs this Python")
    return Finding(
        "Jupyter kernel",
        "fail",
        f"python3 runs another Python: {program}",
        f"{install} (or choose the kernel of {sys.prefix} in JupyterLab)",
    )


def probe_cores() -> Finding:
    """Count the processor cores that this process may use."""
    if sys.platform == "linux":
        count: int | None = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    found = f"{count or 'unknown number of'} cores, {platform.machine()}"
    return Finding("processor", "ok", found)


def probe_memory() -> Finding:
    """Give the size of the memory, where it can be known."""
    try:
        psutil = importlib.import_module("psutil")  # comes with ipykernel

        size = float(psutil.virtual_memory().total)
    except ImportError:
        return Finding("memory", "ok", "unknown")
    return Finding("memory", "ok", f"{size / 1024**3:.1f} GB")


def probe_disk(workspace: Workspace | None, needed: int = DISK_BYTES) -> Finding:
    """Measure the free space where the learner's files go."""
    free = shutil.disk_usage(workspace.root if workspace else Path.cwd()).free
    found = f"{free / 1024**3:.1f} GB free"
    if free < needed:
        mend = f"Free some space: {needed / 1024**3:.0f} GB are needed to be at ease."
        return Finding("disk", "warn", found, mend)
    return Finding("disk", "ok", found)


def probe_course(workspace: Workspace | None) -> Finding:
    """Say where the course folder is."""
    if workspace is None:
        return Finding(
            "course folder",
            "fail",
            "not found",
            "Go to the course folder (cd …) and run this there.",
        )
    return Finding("course folder", "ok", str(workspace.root))


def probe_work(workspace: Workspace | None) -> Finding:
    """Try to write a file where the learner's notebooks and progress go."""
    if workspace is None:
        return _without_course("work folder")
    if not workspace.work.exists():
        return Finding("work folder", "warn", "not made yet", "transformer-lab start")
    try:
        with tempfile.TemporaryFile(dir=workspace.work):
            pass
    except OSError as error:
        return Finding(
            "work folder",
            "fail",
            f"{workspace.work} can't be written to: {reason_of(error)}",
            "Give yourself the right to write there.",
        )
    return Finding("work folder", "ok", "can be written to")


def probe_exercises(workspace: Workspace | None) -> Finding:
    """Count the exercises that the learner has a copy of."""
    if workspace is None:
        return _without_course("exercises")
    lessons, started = workspace.lessons(), workspace.started()
    if not lessons:
        found = f"{workspace.exercises} holds none"
        return Finding("exercises", "fail", found, "Get the course again, or run `make notebooks`.")
    found = f"{len(started)} of {len(lessons)} lessons copied to work/"
    if len(started) < len(lessons):
        return Finding("exercises", "warn", found, "transformer-lab start")
    return Finding("exercises", "ok", found)


def workspace_or_none() -> Workspace | None:
    """Find the course folder; None if there is none, which is a finding and not an error."""
    try:
        return Workspace.here()
    except (WorkspaceError, OSError):
        return None


def _guarded(name: str, probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except Exception as error:  # whatever it is: the other findings are still wanted
        return Finding(
            name,
            "warn",
            f"could not be examined: {type(error).__name__}: {error}",
            "Please report this to the authors of the course.",
        )


def _without_course(name: str) -> Finding:
    return Finding(name, "warn", "not examined without the course folder")


@cache
def _torch() -> tuple[dict[str, Any] | None, str]:
    """Import torch in a second process: its version and devices, or else what went wrong."""
    command = [sys.executable, "-c", _TORCH_PROBE]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TORCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"it took more than {_TORCH_SECONDS} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"the process ended with code {done.returncode}"
    # The last line only: a package that is imported along may print lines of its own.
    probed: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return probed, ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins(workspace: Workspace | None) -> dict[str, str]:
    """Read the exact versions of constraints.txt, if the course folder has one."""
    path = workspace.root / "constraints.txt" if workspace else None
    if path is None or not path.exists():
        return {}
    lines = [
        line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()
    ]
    wanted = [Requirement(line) for line in lines if line]
    return {
        each.name.lower(): str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate()  # some pins hold for one Python only
    }


def _base(version: str) -> str:
    """Drop the local part: the builds 2.13.0+cpu and 2.13.0+cu128 are one release."""
    return version.partition("+")[0]


def _same_release(one: str, other: str) -> bool:
    return _base(one) == _base(other)
