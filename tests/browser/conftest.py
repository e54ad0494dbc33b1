"""JupyterLab on a copy of the course, and a real browser in front of it.

Where there is no browser these tests are skipped with a sentence that says what to install; in
continuous integration (CI=true) they fail instead, so that nobody believes they have run.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_TOKEN = "course"
_WAIT = 120.0  # seconds; other work may share the machine, and what is late isn't wrong

# Otherwise JupyterLab asks for news, and keeps cells outside the window out of the page.
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    # A request that is missed below still gets nowhere, and what needs it is missing in the page.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_LAB = pytest.StashKey["Lab"]()


@dataclass(repr=False)  # a failed assertion would show every address
class Lab:
    """A running JupyterLab, and the browser that looks at it."""

    root: Path  # the copy of the course
    address: str
    log: Path
    start_server: Callable[[], Any]  # starts one more, for a while
    context: Any = None  # playwright's BrowserContext
    requests: list[str] | None = None  # every address that the browser has asked for
    seen_before_run: int = 0  # pictures in the lesson as it is shipped

    def open(self, notebook: str) -> Any:
        """Open a notebook in a page of its own and wait until its kernel is ready."""
        page = self.context.new_page()
        # A workspace of its own: two pages in one workspace would shut each other's tabs.
        name = Path(notebook).parent.name
        page.goto(f"{self.address}/lab/workspaces/{name}/tree/{notebook}?token={_TOKEN}&reset")
        self.wait_for_idle(page)
        cells = json.loads((self.root / notebook).read_text(encoding="utf-8"))["cells"]
        page.locator(f".jp-Notebook .jp-Cell >> nth={len(cells) - 1}").wait_for(state="attached")
        return page

    def wait_for_idle(self, page: Any) -> None:
        # The status bar's word: the circle beside the kernel's name shows "idle" before there is one.
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()

    def wait_until(self, reached: Callable[[], Any], what: str) -> None:
        _wait_until(reached, what)

    def keep(self, page: Any, name: str) -> None:
        """Keep a picture of what the page shows, if TRANSFORMER_LAB_SCREENSHOTS names a folder."""
        if folder := os.environ.get("TRANSFORMER_LAB_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{name}.png")


def _wait_until(reached: Callable[[], Any], what: str) -> None:
    """Ask again and again, for what the browser can't tell: files, and servers that start."""
    end = time.monotonic() + _WAIT
    while not reached():
        assert time.monotonic() < end, f"not within {_WAIT:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Lab]:
    chromium = _browser()
    sync_playwright = _playwright()
    folder = tmp_path_factory.mktemp("lab")
    root = _copy_of_the_course(folder / "course")
    environment = _environment(folder)

    def start_server() -> Any:
        return _server(root, environment, folder / f"server-{time.monotonic_ns()}.log")

    with start_server() as (address, log), sync_playwright() as playwright:
        lab = Lab(root, address, log, start_server, requests=[])
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        lab.context = browser.new_context(viewport={"width": 1280, "height": 900})
        lab.context.set_default_timeout(_WAIT * 1000)
        lab.context.on("request", lambda request: lab.requests.append(request.url))
        lab.context.on(
            "page",
            lambda page: page.on("websocket", lambda socket: lab.requests.append(socket.url)),
        )
        request.config.stash[_LAB] = lab
        yield lab
        del request.config.stash[_LAB]
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where a test has failed, add what the page shows and what the server says."""
    report = yield
    lab = item.config.stash.get(_LAB, None)
    if report.failed and lab is not None:
        lines = [f"the server's log: {lab.log}"]
        for number, page in enumerate(lab.context.pages):
            picture = lab.log.with_name(f"{item.name}-{number}.png")
            try:
                page.screenshot(path=picture, timeout=10_000)
                lines.append(f"what the page shows: {picture}")
            except Exception as error:  # the first failure is the one to report
                lines.append(f"no picture of the page: {error}")
        tail = lab.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        report.sections.append(("JupyterLab", "\n".join([*lines, *tail])))
    return report


def _copy_of_the_course(root: Path) -> Path:
    """A course folder to write in: nothing of the checkout is changed."""
    for name in ("notebooks", "exercises", "solutions"):
        ignored = shutil.ignore_patterns(".*", "*.part")
        shutil.copytree(_ROOT / name, root / name, ignore=ignored)
    shutil.copy(_ROOT / "constraints.txt", root)
    command = shutil.which("transformer-lab", path=str(Path(sys.executable).parent))
    assert command, "the command transformer-lab isn't installed beside this Python"
    subprocess.run([command, "start"], cwd=root, check=True, timeout=_WAIT)
    return root


def _environment(folder: Path) -> dict[str, str]:
    """The environment of a learner who has never started Jupyter."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "IPYTHON", "TRANSFORMER_LAB", "MPLBACKEND"))
    }
    folders = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    overrides = Path(folders["JUPYTER_CONFIG_DIR"]) / "labconfig/default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(_SETTINGS), encoding="utf-8")
    return {**inherited, **folders}


@contextmanager
def _server(root: Path, environment: dict[str, str], log: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab on a free port, from the moment it answers: its address and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--port={port}", "--port-retries=0",
        f"--IdentityProvider.token={_TOKEN}",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until(
            lambda: _answers(port) or process.poll() is not None,
            f"JupyterLab answers; its log: {log}",
        )
        assert process.poll() is None, (
            f"JupyterLab has stopped; its log, {log}:\n{log.read_text(errors='replace')}"
        )
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()  # it stops its kernels first
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    # http.client and not urllib: it doesn't ask a proxy.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _browser() -> str:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    return found or _missing(
        f"no browser was found ({', '.join(_BROWSERS)}): install one, "
        "for example with `apt-get install chromium`"
    )


def _playwright() -> Any:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("playwright isn't installed: `pip install 'transformer-lab[test]'`")
    return sync_playwright


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
