"""Formats the Python code in lessons/*.md with ruff, so that the built notebooks are formatted too."""

import re
import subprocess
import sys
from pathlib import Path

from tools.sources import ROOT

_CELL = re.compile(
    r"(^```\{code-cell\}\n(?:(?::[^\n]*\n)+\n?)?)(.*?)(^```$)", re.MULTILINE | re.DOTALL
)


def format_source(text: str) -> str:
    """A text with each of its code cells formatted."""
    return _CELL.sub(lambda cell: cell[1] + _format(cell[2]) + cell[3], text)


def _format(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", "cell.py", "-"],
        input=code,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"ruff can't format this cell:\n{code}\n{done.stderr}")
    return done.stdout


def main() -> None:
    for path in sorted(Path(ROOT / "lessons").glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = format_source(before)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(f"formatted {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
