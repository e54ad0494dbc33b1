"""The house rules that a reader of any file may rely on."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import transformer_lab

ROOT = Path(__file__).parent.parent
PACKAGE = Path(transformer_lab.__file__).parent

# Which modules of the package each may import. A folder stands for all that is in it.
BLOCKS = {"attention", "blocks", "cache", "checks", "feedforward", "masks", "norms", "positions"}
ARROWS = {
    "accounting": {"checks"},
    "architecture": set(),
    "attention": {"cache", "checks", "masks"},
    "blocks": {"cache", "checks"},
    "cache": {"checks"},
    "checks": set(),
    "feedforward": {"checks"},
    "masks": {"checks"},
    "norms": {"checks"},
    "positions": {"checks"},
    "models": BLOCKS | {"models"},
    "convert": {"checks", "feedforward", "models", "positions"},
    "plots": {"checks"},
    "data": {"checks", "data"},
    "tokenizers": {"checks", "tokenizers"},
    "training": {"checks", "training"},
    "training/__main__": {"data", "generation", "models", "tokenizers", "training"},
    "generation": {"checks", "generation"},
    "workspace": set(),
    "progress": {"workspace"},
    "running": {"workspace"},
    "doctor": {"workspace"},
    "checking": {"checking", "progress"},
    "cli": {"checking", "doctor", "progress", "running", "workspace"},
    "__init__": set(),
}
LEARNING = (
    *sorted(BLOCKS - {"checks"}),
    "accounting",
    "architecture",
    "plots",
)  # what lessons are built on


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def house(path: Path) -> str:
    """The name in ARROWS that a module goes by."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts) if parts[-1] == "__main__" else parts[0]


def siblings_imported(path: Path) -> set[str]:
    """The modules of the package that one imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    within = [name.split(".") for name in names if name.startswith("transformer_lab.")]
    return {parts[1] for parts in within if parts[1] in ARROWS}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    assert siblings_imported(path) <= ARROWS[house(path)]


def test_models_do_not_import_each_other():
    for path in sorted((PACKAGE / "models").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"from transformer_lab\.models\.(\w+) import", text)) <= {
            "common",
            "settings",
        }


def test_a_forbidden_import_would_be_seen(tmp_path):
    path = tmp_path / "masks.py"
    path.write_text("def f():\n    from transformer_lab.attention import attention_weights\n")
    assert siblings_imported(path) == {"attention"}


@pytest.mark.parametrize("name", LEARNING)
def test_public_functions_say_what_they_do(name):
    module = __import__(f"transformer_lab.{name}", fromlist=[name])
    for public, thing in vars(module).items():
        if public.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        if not inspect.isfunction(inspect.unwrap(thing)):
            continue
        text = inspect.getdoc(thing) or ""
        assert re.match(r"[A-Z].*[.:]$", text.splitlines()[0]), public
        parameters = inspect.signature(thing).parameters
        for parameter in parameters:
            assert re.search(rf"^    {parameter}: ", text, re.MULTILINE), f"{public}: {parameter}"


def test_code_raises_errors_that_stay_with_optimisation():
    """`assert` is for what can't happen; it vanishes under python -O."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                shown = ast.unparse(node.test)
                assert "None" in shown or shown.startswith("isinstance"), f"{path.name}: {shown}"


def test_blocks_and_models_stay_small_enough_to_be_read():
    """What they ask of their input is in checks.py, which isn't counted here."""
    paths = [PACKAGE / f"{name}.py" for name in BLOCKS - {"checks"}]
    paths += (PACKAGE / "models").glob("*.py")
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(line.strip()) for line in lines) < 2000
