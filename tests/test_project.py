"""The project's own files agree with each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rattler import MatchSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tools.sources import plan

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PIP = next(each["pip"] for each in ENVIRONMENT["dependencies"] if isinstance(each, dict))
CONDA = [each for each in ENVIRONMENT["dependencies"] if isinstance(each, str)]
COURSE = ("jupyterlab", "numpy", "torch", "matplotlib", "nbval")


def pins(python: str) -> dict[str, str]:
    """The versions that constraints.txt gives for a Python version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        each = Requirement(line)
        if each.marker is None or each.marker.evaluate({"python_version": python}):
            assert each.name not in found, f"{each.name} is pinned twice for Python {python}"
            found[each.name] = str(each.specifier).removeprefix("==")
    return found


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_everything_is_pinned_within_its_range(python):
    assert SpecifierSet(PROJECT["requires-python"]).contains(python + ".1")
    pinned = {name.lower(): version for name, version in pins(python).items()}
    for each in requirements("test", "hf"):
        if each.marker is not None and not each.marker.evaluate({"python_version": python}):
            continue
        assert each.name.lower() in pinned, f"{each.name} isn't in constraints.txt"
        assert each.specifier.contains(Version(pinned[each.name.lower()]))


def test_the_course_is_made_of_the_five_packages():
    names = {each.name for each in requirements()}
    assert set(COURSE) <= names
    in_environment = {Requirement(line).name for line in PIP if not line.startswith("-")}
    assert in_environment == set(COURSE)


def test_environment_has_the_pins_and_the_package():
    pinned = pins("3.11")
    for line in PIP:
        if not line.startswith("-"):
            each = Requirement(line)
            assert str(each.specifier) == f"=={pinned[each.name]}"
    assert "-c constraints.txt" in PIP
    assert "-e ." in PIP


def test_environment_can_be_read_by_conda():
    specs = [MatchSpec(each) for each in CONDA]
    assert [spec.name.normalized for spec in specs] == ["python", "pip"]
    version = re.fullmatch(r"python=(\d\.\d+)", CONDA[0])
    assert version is not None
    assert SpecifierSet(PROJECT["requires-python"]).contains(version[1] + ".1")


def test_pip_part_of_the_environment_installs(tmp_path):
    """As conda does it: the list goes to a requirements file beside environment.yml."""
    listed = ROOT / ".condaenv.requirements.txt"
    listed.write_text("\n".join(PIP), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-build-isolation",
             "--disable-pip-version-check", "-r", str(listed)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        listed.unlink()
    assert done.returncode == 0, done.stderr


def test_make_help_names_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    shown = re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert shown == phony[1].split()


def test_make_lab_serves_the_whole_course():
    """With a notebook as its argument, JupyterLab would serve that folder alone, without work/."""
    command = ["make", "--dry-run", "lab", "PORT=1234", "BROWSER=no"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lab = done.stdout[done.stdout.index("jupyter lab") :]
    assert "--port=1234" in lab
    assert "--no-browser" in lab
    assert "default_url=/lab/tree/notebooks/00_start_here.ipynb" in lab
    assert " notebooks/" not in lab


def test_ci_runs_make_test_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[-1] == "make test"


def test_readme_links_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "GLOSSARY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}, which isn't there"


def test_readme_map_links_exactly_the_lessons_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\(notebooks/(\d\d_\w+)\.ipynb\)", text))
    there = {each.path.stem for each in plan() if each.path.parent.name == "notebooks"}
    assert linked == there
    numbers = re.findall(r"(?<![\d_/])(\d\d) \w", text[text.index("## The map") :])
    assert [number for number in numbers if int(number) < 26] == [f"{n:02d}" for n in range(26)]


def test_glossary_is_that_of_the_lessons():
    from tools.glossary import glossary

    assert (ROOT / "GLOSSARY.md").read_text(encoding="utf-8") == glossary(), "run `make notebooks`"


def test_importing_blocks_and_models_costs_little_beside_torch():
    models = sorted((ROOT / "transformer_lab" / "models").glob("[a-z]*.py"))
    names = ", ".join(f"transformer_lab.models.{path.stem}" for path in models)
    code = (
        "import time, torch; start = time.process_time(); "
        f"import {names}, transformer_lab.accounting, transformer_lab.convert; "
        "print(time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3  # seconds; of its own work, whatever else the machine does
