"""Runs a learner's notebook in a process of its own and gathers what its checks answered.

The notebook is read, never written: what runs is a copy in memory. An error in one cell does not
stop the next ones, because the exercises of a lesson don't depend on each other.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from transformer_lab.workspace import Workspace, WorkspaceError, code_cells

CELL_SECONDS = 60.0

_GRACE_SECONDS = 5.0  # how long an interrupted cell may take to stop
_START_SECONDS = 60  # a first import on a cold disk is slow
_VERDICTS = ("pass", "fail", "todo")
_CALLS_CHECK = re.compile(r"^[^#\n]*(?<!def )\bcheck\(\s*(\w+)", re.MULTILINE)
_CELL_FILE = re.compile(r"\(\d+\.py, line (\d+)\)")

_T = TypeVar("_T")


class RunningError(Exception):
    """A notebook could not be run at all; the message is for the learner."""


class ExerciseResult(NamedTuple):
    """The answer on one exercise: 'pass', 'fail', 'todo' or 'not run', and why."""

    name: str
    status: str
    diagnosis: str


@dataclass
class CellRun:
    """What came of one code cell; `number` is what Jupyter shows in brackets after Run All."""

    number: int
    source: str
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""  # a sentence without its full stop; empty if the cell ran through
    exception: str = ""  # the name of the exception that the cell raised of itself
    ended_the_run: bool = False


def run_lesson(
    workspace: Workspace, lesson: str, timeout: float = CELL_SECONDS
) -> list[ExerciseResult]:
    """Run the learner's notebook of a lesson and return the result of each exercise, in order.

    `timeout` is in seconds, for each cell. The checks in the notebook record progress as usual.
    Not for use inside a running event loop, such as a notebook's own.

    Raises: RunningError if the notebook is missing or damaged, or no kernel starts.
    """
    path = workspace.work_path(lesson)
    if not path.exists():
        raise RunningError(
            f"there is no {path}. Run `transformer-lab start {lesson}` to make your copy."
        )
    try:
        names = workspace.exercise_names(lesson)
        sources = code_cells(path)
    except WorkspaceError as error:
        raise RunningError(str(error)) from error
    runs = run_cells(sources, workspace.work, timeout)
    return [_result(name, runs) for name in names]


def run_cells(sources: list[str], folder: Path, timeout: float = CELL_SECONDS) -> list[CellRun]:
    """Run code cells one after the other in a new kernel that works in `folder`.

    Empty cells are left out, as Jupyter leaves them out of its count. The list ends early where a
    cell ended the run.

    Raises: RunningError if no kernel starts.
    """
    runs = [CellRun(n, source) for n, source in enumerate(filter(str.strip, sources), start=1)]
    ended = _wait_for(_run_all(runs, folder, timeout))
    return runs[:ended]


async def _run_all(runs: list[CellRun], folder: Path, timeout: float) -> int:
    """Run the cells, fill in what came of them, and return how many were run."""
    manager = AsyncKernelManager(kernel_spec_manager=_ThisInterpreter())
    client = _VerdictClient(
        _notebook(runs),
        km=manager,
        kernel_name="python3",
        timeout=None,  # _run_one keeps the time: nbclient would interrupt a stubborn cell for ever
        startup_timeout=_START_SECONDS,
        allow_errors=True,
        record_timing=False,
        store_widget_state=False,
    )
    try:
        await _start(client, folder)
        for index, run in enumerate(runs):
            await _run_one(client, manager, index, run, timeout)
            if run.ended_the_run:
                return index + 1
        return len(runs)
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


async def _start(client: NotebookClient, folder: Path) -> None:
    environment = dict(os.environ)
    # Checks record progress here even if the shell that we were started from says otherwise.
    environment.pop("TRANSFORMER_LAB_NO_PROGRESS", None)
    try:
        await client.async_start_new_kernel(
            cwd=str(folder),
            env=environment,
            stdout=subprocess.DEVNULL,  # the process's own log; what cells print comes as messages
            stderr=subprocess.DEVNULL,
        )
        await client.async_start_new_kernel_client()
    except (OSError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise RunningError(
            f"the Python process that runs notebooks did not start ({first}). "
            "Run `transformer-lab doctor`: it says what is missing."
        ) from error


async def _run_one(
    client: NotebookClient,
    manager: AsyncKernelManager,
    index: int,
    run: CellRun,
    timeout: float,
) -> None:
    cell = client.nb.cells[index]
    execution = asyncio.ensure_future(client.async_execute_cell(cell, index))
    await asyncio.wait({execution}, timeout=timeout)
    too_long = not execution.done()
    if too_long:
        await manager.interrupt_kernel()
        await asyncio.wait({execution}, timeout=_GRACE_SECONDS)
    stubborn = not execution.done()
    if stubborn:
        # nbclient sees that the kernel is gone within a second and ends the execution.
        await manager.shutdown_kernel(now=True)
    dead = False
    try:
        await execution
    except DeadKernelError:
        dead = True

    run.verdicts = _verdicts(cell.outputs)
    error = next((out for out in cell.outputs if out.output_type == "error"), None)
    run.ended_the_run = stubborn or dead
    limit = f"cell {run.number} ran for more than {timeout:g} s"
    if stubborn:
        run.trouble = f"{limit}, did not stop when interrupted, and was ended"
    elif dead:
        run.trouble = (
            f"the Python process ended in cell {run.number} (out of memory, a crash, or exit())"
        )
    elif too_long:
        run.trouble = f"{limit} and was interrupted"
    elif error is not None:
        run.exception = error.ename
        run.trouble = f"cell {run.number} raised {_in_one_line(error.ename, error.evalue)}"


def _notebook(runs: list[CellRun]) -> NotebookNode:
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "source": run.source,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for run in runs
    ]
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    text = json.dumps(content)
    notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def _result(name: str, runs: list[CellRun]) -> ExerciseResult:
    for run in reversed(runs):
        for verdict in reversed(run.verdicts):
            if verdict["name"] == name:
                return ExerciseResult(name, verdict["status"], verdict["diagnosis"])
    return ExerciseResult(name, "not run", _why_not_run(name, runs))


def _why_not_run(name: str, runs: list[CellRun]) -> str:
    """Say why a check gave no result: mostly a cell at or before it that failed."""
    call = next((run for run in runs if name in _CALLS_CHECK.findall(run.source)), None)
    if call is None:
        if runs and runs[-1].ended_the_run:
            return _because(runs[-1], f"check({name}) was not reached.")
        return (
            f"no cell calls check({name}). Write it at the end of a cell of its own, save, and "
            "check again."
        )
    cause = _cause(call, runs)
    if cause is None:
        return (
            f"cell {call.number} showed no result. check({name}) must be the last line of its "
            "cell, and not be assigned to a variable."
        )
    return _because(cause, f"Then {call.trouble}." if call.trouble and call is not cause else "")


def _cause(call: CellRun, runs: list[CellRun]) -> CellRun | None:
    """Find the cell to blame for a check cell without a result."""
    if not call.trouble:
        return None
    if not call.exception:
        return call  # it took too long, or ended the process, of itself
    # A check cell raises when something before it is missing. Look first in the cells of the same
    # exercise, then at the imports and everything else above. A stub that is run is no cause.
    before = runs[: call.number - 1]
    blamed = [run for run in before if run.trouble and run.exception != "NotImplementedError"]
    checks = [run.number for run in before if _CALLS_CHECK.search(run.source)]
    own = [run for run in blamed if run.number > max(checks, default=0)]
    return next(iter(own + blamed), call)


def _because(cause: CellRun, then: str) -> str:
    first = cause.source.strip().partition("\n")[0].strip()
    lines = [cause.trouble, f"Cell {cause.number} begins: {first}", then]
    return "\n".join(line for line in lines if line)


def _verdicts(outputs: list[Any]) -> list[dict[str, Any]]:
    """Pick the checks' results out of the outputs of a cell; anything else is left aside."""
    found = [out.get("metadata", {}).get("transformer_lab") for out in outputs]
    return [
        dict(verdict)
        for verdict in found
        if isinstance(verdict, dict)
        and verdict.get("status") in _VERDICTS
        and isinstance(verdict.get("name"), str)
        and isinstance(verdict.get("diagnosis"), str)
    ]


def _in_one_line(name: str, value: str) -> str:
    """Write an exception as Python's last line of a traceback does, cut to a readable length."""
    first = value.strip().partition("\n")[0]
    first = _CELL_FILE.sub(r"(line \1)", first)  # the file's name is a random number
    return f"{name}: {first[:200]}" if first else name


class _VerdictClient(NotebookClient):
    """A client that drops what cells print, so that an endless print can't fill the memory."""

    def output(self, outs: Any, msg: Any, display_id: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            return None
        return super().output(outs, msg, display_id, cell_index)


class _ThisInterpreter(KernelSpecManager):
    """Knows one kernel: the interpreter that runs this, which has the course installed.

    The kernel called python3 on a learner's machine may belong to another installation.
    """

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


def _wait_for(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, and on Ctrl-C let it shut its kernel down first."""
    # The messaging library needs a selector loop, which is not the default on Windows.
    loop = asyncio.SelectorEventLoop()
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    finally:
        unfinished = asyncio.all_tasks(loop)
        for each in unfinished:
            each.cancel()
        if unfinished:
            loop.run_until_complete(asyncio.gather(*unfinished, return_exceptions=True))
        loop.close()
