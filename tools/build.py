"""Builds the notebooks: makes them from lessons/, runs them, stores what they show.

    python -m tools.build              what has changed
    python -m tools.build --only 05    one lesson, changed or not
    python -m tools.build --all        everything
    python -m tools.build --prose      where only prose has changed: takes it over, runs nothing

A second build of the same text gives the same bytes.
"""

import argparse
import ast
import base64
import hashlib
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tools import glossary
from tools.sources import ROOT, Planned, SourceError, plan
from transformer_lab.plots import palette_png

# The kernels inherit these: one thread, and the same order of sums, on every machine.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
_CELL_SECONDS = 180
_STATUS = {"solutions": "pass", "exercises": "todo"}


class BuildError(RuntimeError):
    """A notebook didn't run as it should; the message says which cell and why."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only", default="", metavar="NN", help="one lesson, such as 05, changed or not"
    )
    parser.add_argument("--all", action="store_true", help="everything, changed or not")
    parser.add_argument("--prose", action="store_true", help="where only prose has changed")
    options = parser.parse_args(arguments)
    os.environ.update(ENVIRONMENT)
    try:
        planned = plan(ROOT, options.only)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    if not (options.all or options.only):
        planned = [each for each in planned if is_stale(each)]
    glossary.write(ROOT)
    if options.prose:
        for each in planned:
            print(f"{each.path}: {'taken over' if retell(each) else 'its code has changed too'}")
        return 0
    if not planned:
        print("All notebooks are built from the texts as they stand.")
        return 0
    failed = 0
    with ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, len(planned))) as pool:
        for each, message in zip(planned, pool.map(_build_or_say_why, planned), strict=True):
            failed += message.startswith("FAILED")
            print(f"{each.path}: {message}")
    _remember(ROOT)
    return 1 if failed else 0


def is_stale(planned: Planned, root: Path = ROOT) -> bool:
    """Whether a notebook has to be built: its text or the package has changed since.

    Whether the package has, is known on the machine that built last; in a fresh clone the text alone
    decides, and the comparison of outputs in `make test` finds the rest.
    """
    path = root / planned.path
    if not path.exists() or cells(read(path)) != cells(planned.notebook):
        return True
    stamp = _stamp(root)
    return stamp.exists() and stamp.read_text() != _digest_of_package(root)


def build(planned: Planned, root: Path = ROOT) -> float:
    """Run a notebook, clean what it gave, and write it. Returns the seconds it ran.

    Raises: BuildError if a cell failed, an exercise isn't answered as it should be, or it took too
        long.
    """
    notebook, folder = planned.notebook, root / planned.path.parent
    folder.mkdir(exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernels' own notes are not for the console
        resources={"metadata": {"path": str(folder)}},
    )
    start = time.monotonic()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BuildError(str(error)) from error
    seconds = time.monotonic() - start
    clean(notebook, root)
    _check_answers(planned)
    if seconds > planned.seconds:
        raise BuildError(
            f"it ran {seconds:.0f} s; the head of {planned.source.name} allows {planned.seconds:.0f} s. "
            "Make it faster, or allow more if the lesson trains a model (90 s at most)."
        )
    write(notebook, root / planned.path)
    return seconds


def retell(planned: Planned, root: Path = ROOT) -> bool:
    """Give a stored notebook its new prose, with the outputs that it has. Returns whether it could.

    It can't if a code cell has changed, come, gone or moved: then the notebook has to run.
    """
    path = root / planned.path
    old = read(path).cells if path.exists() else []
    code = [cell for cell in old if cell.cell_type == "code"]
    new = [cell for cell in planned.notebook.cells if cell.cell_type == "code"]
    if [_told(cell) for cell in code] != [_told(cell) for cell in new]:
        return False
    for cell, stored in zip(new, code, strict=True):
        cell.outputs, cell.execution_count = stored.outputs, stored.execution_count
    planned.notebook.metadata.language_info = NotebookNode(name="python")
    write(planned.notebook, path)
    return True


def _told(cell: NotebookNode) -> tuple[str, tuple[str, ...]]:
    return cell.source, tuple(cell.metadata.get("tags", ()))


def clean(notebook: NotebookNode, root: Path) -> None:
    """Take out of the outputs all that differs from run to run or from machine to machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = NotebookNode(name="python")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [_without_paths(line, root) for line in output.traceback]
            if png := output.get("data", {}).get("image/png"):
                packed = palette_png(base64.b64decode(png))
                output.data["image/png"] = base64.b64encode(packed).decode()


def cells(notebook: NotebookNode) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """What of a notebook comes from its text: id, type, source and tags of each cell."""
    return [
        (cell.id, cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]


def read(path: Path) -> NotebookNode:
    """Read a notebook as it stands, without conversions."""
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    part.replace(path)


def statuses(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Name and status of each check whose result is stored in a notebook."""
    return [
        (facts["name"], facts["status"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if (facts := output.get("metadata", {}).get("transformer_lab"))
    ]


def _build_or_say_why(planned: Planned) -> str:
    try:
        return f"{build(planned):.1f} s"
    except BuildError as error:
        return f"FAILED\n{error}"


def _check_answers(planned: Planned) -> None:
    wanted = _STATUS.get(planned.path.parent.name)
    for name, status in statuses(planned.notebook):
        if wanted and status != wanted:
            raise BuildError(
                f"check({name}) answers {status!r}; in {planned.path.parent}/ it has to be {wanted!r}."
            )


def _without_paths(text: str, root: Path) -> str:
    return re.sub(
        r"(/[^\s:'\"]*)?/(site-packages|lib/python3\.\d+)/", r"…/\2/", text.replace(str(root), ".")
    )


def _digest_of_package(root: Path) -> str:
    # Of the code without comments: a comment can't change an output.
    trees = [
        ast.dump(ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted((root / "transformer_lab").rglob("*.py"))
    ]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


def _stamp(root: Path) -> Path:
    return root / ".cache" / "notebooks_built_with"


def _remember(root: Path) -> None:
    _stamp(root).parent.mkdir(exist_ok=True)
    _stamp(root).write_text(_digest_of_package(root))


if __name__ == "__main__":
    sys.exit(main())
