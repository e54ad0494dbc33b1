"""The command `transformer-lab`: a learner's way around the exercises.

Only what a command needs is imported by it: `--help` and `progress` answer at once, because torch
and the notebook machinery are left alone. The words shown here are for newcomers.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from transformer_lab.progress import Progress, ProgressError
from transformer_lab.workspace import Workspace, WorkspaceError

if TYPE_CHECKING:
    from transformer_lab.running import ExerciseResult

# A mark, its stand-in for a terminal that can't show it, its colour and its meaning.
_MARKS = {
    "pass": ("✓", "+", "green", "right"),
    "fail": ("✗", "x", "red", "wrong"),
    "todo": ("○", "o", "dim", "still to be written"),
    "not run": ("–", "-", "yellow", "not run"),
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Lesson = Annotated[
    str,
    typer.Argument(
        metavar="LESSON",
        help="A lesson by number or name: 5, 05, attention.",
        show_default=False,
    ),
]
_LessonOrAll = Annotated[
    str,
    typer.Argument(
        metavar="LESSON",
        help="A lesson by number or name: 5, 05, attention. All if left out.",
        show_default=False,
    ),
]


def main() -> None:
    """Run the command line."""
    _tolerate_narrow_encodings()
    app()


@app.callback()
def about() -> None:
    """Do the exercises of the course, and see how you get on.

    start makes your own copies in the folder work/. Open them in JupyterLab, write your answers,
    save, and run the cells: each check(...) answers there. check runs them all again from here.
    """
    _tolerate_narrow_encodings()


@app.command()
def start(lesson: _LessonOrAll = "") -> None:
    """Copy exercises to work/.

    Copies that you have are never overwritten.
    """
    with _errors_in_words():
        workspace = Workspace.here()
        _require_lessons(workspace)
        if lesson:
            lesson = workspace.find(lesson)
        for copy in [workspace.start(lesson)] if lesson else workspace.start_missing():
            path = _shown(copy.path, workspace)
            _say(f"{path} is made." if copy.made else f"{path} was there already; left as it is.")


@app.command()
def check(
    lesson: _LessonOrAll = "",
    timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds that one cell may take.", metavar="SECONDS")
    ] = 60.0,
) -> None:
    """Run your notebooks, show what checks say.

    Runs what is saved in work/: save in JupyterLab first (Ctrl+S). Your files are only read. Exit
    code: 0 if nothing is wrong (an unwritten answer is not wrong), 1 if a check fails or could not
    run, 2 for a bad command.
    """
    with _errors_in_words():
        workspace = Workspace.here()
        # First, because the checks put a damaged file aside and have no way to say so.
        _progress_of(workspace).read()
        if lesson:
            lesson = workspace.find(lesson)
            results = {lesson: _run(workspace, lesson, timeout)}
        else:
            results = _run_started(workspace, timeout)
    _show_results(results)
    if lesson:
        for result in results[lesson]:
            _show_diagnosis(result)
    _show_summary(results)
    statuses = [result.status for each in results.values() for result in each]
    if "fail" in statuses or "not run" in statuses:
        raise typer.Exit(1)


@app.command()
def hint(
    name: Annotated[
        str,
        typer.Argument(metavar="EXERCISE", help="For example softmax.", show_default=False),
    ],
) -> None:
    """Give a hint; asked again, the next one."""
    with _errors_in_words():
        workspace = Workspace.here()
        known = [
            each for lesson in workspace.lessons() for each in workspace.exercise_names(lesson)
        ]
        if name not in known:
            near = difflib.get_close_matches(name, known)
            mend = (
                f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known)}."
            )
            raise WorkspaceError(f"no exercise {name!r}. {mend}")
        workspace.work.mkdir(exist_ok=True)
        from transformer_lab.checking import hint as next_hint

        # The count of hints seen is kept in work/, and only for who asks from there.
        with _inside(workspace.work):
            _say(str(next_hint(name)))


@app.command()
def progress() -> None:
    """Show what you have solved, by lesson.

    It comes from the checks that ran so far, in JupyterLab or here; nothing is run now.
    """
    with _errors_in_words():
        workspace = Workspace.here()
        _require_lessons(workspace)
        exercises = _progress_of(workspace).read().exercises
        table = _table("lesson", "solved", "exercises")
        for lesson in workspace.lessons():
            names = workspace.exercise_names(lesson)
            done = {
                name: exercises[name]
                for name in names
                if name in exercises and exercises[name].lesson == lesson
            }
            solved = sum(each.status == "pass" for each in done.values())
            marked = []
            for name in names:
                status = done[name].status if name in done else "todo"
                marked.append(_mark(status).append(f" {name}", style="default"))
                if status != "pass" and name in done and done[name].best == "pass":
                    marked[-1].append(" (was solved before)", style="dim")
            # Columns break a line between exercises, never between a mark and its name.
            cell = Columns(marked, padding=(0, 2))
            if not workspace.work_path(lesson).exists():
                cell = Columns([Text("not started", style="dim")])
            table.add_row(Text(lesson), Text(f"{solved} of {len(names)}"), cell)
        _out().print(table)
        _out().print(_legend("pass", "fail").append_text(_mark("todo")).append(" not solved yet"))


@app.command()
def reset(
    lesson: _Lesson,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Begin a lesson's exercises anew.

    Your notebook is kept in work/backups/.
    """
    with _errors_in_words():
        workspace = Workspace.here()
        name = workspace.find(lesson)
        path = _shown(workspace.work_path(name), workspace)
        if not yes and workspace.work_path(name).exists():
            question = f"Replace {path} by a fresh copy (yours is kept in work/backups/)?"
            if not typer.confirm(question):
                _say("Nothing was changed.")
                raise typer.Exit(1)
        done = workspace.reset(name)
        if done.backup is not None:
            _say(f"Yours is kept as {_shown(done.backup, workspace)}.")
        _say(
            f"{path} is a fresh copy. If it is open in JupyterLab: File, Reload Notebook from Disk."
        )


@app.command()
def doctor() -> None:
    """Say what this machine lacks for the course."""
    from transformer_lab.doctor import examine, workspace_or_none

    with _busy("looking at this machine"):
        findings = examine(workspace_or_none())
    words = {
        "ok": Text("ok", "green"),
        "warn": Text("note", "yellow"),
        "fail": Text("wrong", "red"),
    }
    table = _table("", "", "found", "what to do")
    for finding in findings:
        table.add_row(
            words[finding.level], Text(finding.name), Text(finding.found), Text(finding.mend)
        )
    _out().print(table)
    levels = [finding.level for finding in findings]
    if "fail" in levels:
        _say("Mend what is wrong first, then run `transformer-lab doctor` again.")
        raise typer.Exit(1)
    if "warn" in levels:
        _say("The course will run. See the notes above.")
    else:
        _say("All is well.")


def _require_lessons(workspace: Workspace) -> None:
    if not workspace.lessons():
        raise WorkspaceError(f"{workspace.exercises} holds none yet. Run `make notebooks`.")


def _run(workspace: Workspace, lesson: str, timeout: float) -> list[ExerciseResult]:
    from transformer_lab.running import RunningError, run_lesson

    try:
        with _busy(f"running {lesson}"):
            return run_lesson(workspace, lesson, timeout)
    except RunningError as error:
        # One kind of error for the command line, known without the notebook machinery.
        raise WorkspaceError(str(error)) from error


def _run_started(workspace: Workspace, timeout: float) -> dict[str, list[ExerciseResult]]:
    """Run every notebook that the learner has; one that can't be run does not stop the others."""
    from transformer_lab.running import ExerciseResult

    started = workspace.started()
    if not started:
        raise WorkspaceError("work/ holds no exercises yet. Run `transformer-lab start` first.")
    results: dict[str, list[ExerciseResult]] = {}
    for lesson in started:
        try:
            results[lesson] = _run(workspace, lesson, timeout)
        except WorkspaceError as error:
            names = workspace.exercise_names(lesson)
            results[lesson] = [ExerciseResult(name, "not run", str(error)) for name in names]
    return results


def _show_results(results: dict[str, list[ExerciseResult]]) -> None:
    table = _table("lesson", "exercise", "", "")
    for lesson, each in results.items():
        for index, result in enumerate(each):
            first = result.diagnosis.partition("\n")[0]
            label = Text(lesson if index == 0 else "")
            table.add_row(label, Text(result.name), _mark(result.status), Text(first))
    _out().print(table)
    _out().print(_legend("pass", "fail", "todo", "not run"))


def _show_diagnosis(result: ExerciseResult) -> None:
    """Print the whole diagnosis of an exercise that went wrong."""
    if result.status not in ("fail", "not run"):
        return
    out = _out()
    out.print()
    out.print(_mark(result.status).append(f" {result.name}", style="bold"))
    _say(textwrap.indent(result.diagnosis, "  "))
    if result.status == "fail":
        out.print(Text(f"  Stuck? transformer-lab hint {result.name}", style="dim"))


def _show_summary(results: dict[str, list[ExerciseResult]]) -> None:
    every = [(lesson, result) for lesson, each in results.items() for result in each]
    solved = sum(result.status == "pass" for _, result in every)
    wrong = [lesson for lesson, result in every if result.status in ("fail", "not run")]
    _say(f"\n{solved} of {len(every)} right.")
    if wrong and len(results) > 1:
        _say(f"For all that a check says: transformer-lab check {wrong[0]}")


def _progress_of(workspace: Workspace) -> Progress:
    return Progress(workspace.work, tell=_warn)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        # A column of names is never cut or wrapped; the last one takes what is left.
        table.add_column(title, overflow="fold", no_wrap=title in ("lesson", "exercise", "solved"))
    return table


def _mark(status: str) -> Text:
    mark, plain, colour, _ = _MARKS[status]
    return Text(mark if _shows_marks() else plain, style=colour)


def _legend(*statuses: str) -> Text:
    legend = Text("\n", style="dim")
    for status in statuses:
        legend.append_text(_mark(status)).append(f" {_MARKS[status][3]}   ")
    return legend


def _shows_marks() -> bool:
    try:
        "".join(mark for mark, *_ in _MARKS.values()).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _tolerate_narrow_encodings() -> None:
    """Show a question mark for what the terminal can't, instead of ending in an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _out() -> Console:
    # Made anew each time: a console keeps the stream that it was made with, and tests change it.
    return Console(highlight=False)


def _say(sentence: str) -> None:
    """Print a sentence as it is: not broken in two by the width, no brackets read as markup."""
    typer.echo(sentence)


def _warn(sentence: str) -> None:
    typer.echo(f"transformer-lab: {sentence}", err=True)


def _shown(path: Path, workspace: Workspace) -> str:
    """Give a path as a learner knows it: from the course folder, with forward slashes."""
    return path.relative_to(workspace.root).as_posix()


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn an error that a learner can mend into one line and exit code 2."""
    try:
        yield
    except (WorkspaceError, ProgressError, OSError) as error:
        _warn(" ".join(str(error).split()))
        raise typer.Exit(2) from error


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while (`contextlib.chdir` is of Python 3.11)."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _busy(what: str) -> AbstractContextManager[object]:
    """Show that something is going on, on a terminal; nothing where the output is kept."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return nullcontext()
    # This spinner is made of plain characters, which every terminal has.
    return console.status(f"{what} …" if _shows_marks() else f"{what} ...", spinner="line")


if __name__ == "__main__":
    main()
