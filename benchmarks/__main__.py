"""`python -m benchmarks`: one table of medians, ranges and ratios, and the same figures as JSON."""

import json
import platform
import statistics
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import generation, growth, learning, training
from benchmarks.measure import OURS, Figure

RESULTS = Path(__file__).parent / "results"


class Part(str, Enum):
    training = "training"
    generation = "generation"
    learning = "learning"
    growth = "growth"


def main(
    parts: Annotated[list[Part] | None, typer.Argument(help="what to measure; all if none")] = None,
    rounds: Annotated[int, typer.Option(help="turns of each contestant")] = 15,
    threads: Annotated[int, typer.Option(help="processor threads that torch may use")] = 2,
) -> None:
    """Measure speed and learning, in turns with other libraries, and print a table.

    The figures are kept as JSON in benchmarks/results, one file a part. Nothing else should run meanwhile.
    """
    torch.set_num_threads(threads)
    RESULTS.mkdir(exist_ok=True)
    console = Console()
    notes: list[str] = []
    table = Table("task", "who", "median", "from", "to", "ratio to the best peer", "of the limit")
    for part in parts or list(Part):
        console.print(f"[dim]measuring {part.value} …[/dim]")
        if part is Part.growth:
            found: Any = growth.measure(RESULTS / "growth.png")
            for name, curve in found.items():
                table.add_row(name, "", f"time ~ {curve['axis']}^{curve['exponent']:.2f}")
        else:
            module = {"training": training, "generation": generation, "learning": learning}[
                part.value
            ]
            figures = module.figures(rounds)
            for figure in figures:
                _rows(table, figure)
                notes += [f"[dim]{figure.task}: {figure.note}[/dim]"] if figure.note else []
            found = [figure.to_json() for figure in figures]
        kept = {"machine": _machine(threads), "figures": found}
        path = RESULTS / f"{part.value}.json"
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _rows(table: Table, figure: Figure) -> None:
    table.add_section()
    medians = figure.medians
    for who in sorted(medians, key=lambda name: (name != OURS, -medians[name])):
        values, mine = figure.samples[who], who == OURS
        ratio = of_limit = ""
        if mine and figure.ratios:
            ratio = f"{statistics.median(figure.ratios):.2f} ({min(figure.ratios):.2f}–{max(figure.ratios):.2f})"
            if figure.aim is not None:
                ratio += f", aim {figure.aim:g}: {'holds' if figure.holds else 'FALLS SHORT'}"
        if mine and figure.limit:
            of_limit = f"{medians[who] / figure.limit[0]:.0%} of {figure.limit[0]:,.0f} ({figure.limit[1]})"
        shown = [f"{number:,.4g}" if number < 100 else f"{number:,.0f}" for number in
                 (medians[who], min(values), max(values))]  # fmt: skip
        table.add_row(figure.task if mine else "", f"{who}", *shown, ratio, of_limit)


def _machine(threads: int) -> dict[str, Any]:
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "processor": platform.processor() or platform.machine(),
        "cpu capabilities": sorted(
            name for name, has in torch.cpu.get_capabilities().items() if has is True
        ),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    typer.run(main)
