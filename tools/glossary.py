"""Gathers the glossaries at the end of the lessons into GLOSSARY.md."""

import re
from pathlib import Path

from tools.sources import ROOT

_TABLE = re.compile(r"^\| term \| meaning \| Chinese \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_HEAD = """# Glossary

The terms of the lessons that are there, with their Chinese names and the lesson that explains them. Built by
`make notebooks` from the tables at the end of the lessons.

| term | meaning | Chinese | lesson |
|---|---|---|---|
"""


def glossary(root: Path = ROOT) -> str:
    """The text of GLOSSARY.md: all terms in alphabetical order, each from the first lesson that has it."""
    rows: dict[str, str] = {}
    for source in sorted((root / "lessons").glob("[0-9][0-9]_*.md")):
        for table in _TABLE.findall(source.read_text(encoding="utf-8")):
            for line in table.splitlines():
                # A bar in a formula is written \| in a table, and stays inside its cell.
                term, meaning, chinese = (
                    cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]
                )
                link = f"[{source.stem[:2]}](notebooks/{source.stem}.ipynb)"
                rows.setdefault(term, f"| {term} | {meaning} | {chinese} | {link} |")
    return _HEAD + "\n".join(rows[term] for term in sorted(rows, key=str.casefold)) + "\n"


def write(root: Path = ROOT) -> None:
    """Write GLOSSARY.md."""
    (root / "GLOSSARY.md").write_text(glossary(root), encoding="utf-8", newline="\n")
