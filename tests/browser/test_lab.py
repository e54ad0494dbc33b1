"""What a learner does, done in a real browser: read a lesson, run it, answer an exercise."""

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tools.build import read

pytestmark = pytest.mark.browser

LESSON = "05_attention"
STUB = "raise NotImplementedError"
# Without the scale, as the bank of wrong answers knows it.
ANSWER = (
    "scores = q @ k.transpose(-2, -1)",
    "scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)",
    "weights = torch.softmax(scores, dim=-1)",
    "return weights @ v, weights",
)
MEND = " / math.sqrt(q.shape[-1])"


@pytest.fixture(scope="module")
def running_lesson(lab: Any) -> Iterator[Any]:
    """The lesson from Run All Cells on: it computes while another test goes on."""
    page = lab.open(f"notebooks/{LESSON}.ipynb")
    lab.keep(page, "lesson")
    pictures = page.locator(".jp-OutputArea-output img")
    pictures.last.wait_for(state="attached")
    lab.seen_before_run = pictures.locator("visible=true").count()
    run_all(page)
    yield page
    page.close()


@pytest.fixture(scope="module")
def lesson(lab: Any, running_lesson: Any) -> Any:
    """The lesson after Run All Cells."""
    wait_for_all(lab, running_lesson)
    return running_lesson


def choose(page: Any, menu: str, item: str) -> None:
    page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


def run_all(page: Any) -> None:
    # What is stored goes first: everything that is seen afterwards was made here.
    choose(page, "Edit", "Clear Outputs of All Cells")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-CodeCell .jp-OutputArea-output').length === 0"
    )
    choose(page, "Run", "Run All Cells")


def wait_for_all(lab: Any, page: Any) -> None:
    """Wait until no cell shows [ ] or [*] any more."""
    page.wait_for_function(
        """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .every(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim()))"""
    )
    lab.wait_for_idle(page)


def test_exercise_answers_back(lab: Any, running_lesson: Any) -> None:
    page = lab.open(f"work/{LESSON}.ipynb")
    run_all(page)
    wait_for_all(lab, page)
    cells = page.locator(".jp-CodeCell")
    answer = cells.filter(has_text="def attention(").filter(has_text=STUB)
    place = answer.evaluate("cell => [...cell.parentNode.children].indexOf(cell)")
    written, check = page.locator(".jp-Cell").nth(place), page.locator(".jp-Cell").nth(place + 1)
    said = check.locator(".jp-OutputArea-output")

    def run_both(mark: str) -> str:
        page.keyboard.press("Shift+Enter")  # runs the answer and goes on to the check
        page.keyboard.press("Shift+Enter")
        said.filter(has_text=mark).wait_for()
        check.scroll_into_view_if_needed()
        return said.inner_text()

    assert "○" in said.inner_text()
    check.scroll_into_view_if_needed()
    lab.keep(page, "unwritten")

    written.locator(".cm-line", has_text=STUB).click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    for number, line in enumerate(ANSWER):
        if number:
            page.keyboard.press("Enter")  # the editor keeps the indentation
        page.keyboard.type(line)
    assert "√d_k" in run_both("✗")
    lab.keep(page, "wrong")

    written.locator(".cm-line", has_text=ANSWER[0]).click()
    page.keyboard.press("End")
    page.keyboard.type(MEND)
    assert "✗" not in run_both("✓")
    lab.keep(page, "right")

    page.keyboard.press("Control+s")
    copy = lab.root / "work" / f"{LESSON}.ipynb"
    lab.wait_until(lambda: MEND in copy.read_text(encoding="utf-8"), f"{copy} is saved")
    progress = json.loads((lab.root / "work/progress.json").read_text(encoding="utf-8"))
    done = progress["exercises"]["attention"]
    assert (done["status"], done["attempts"]) == ("pass", 2)
    page.close()


def test_lesson_runs_without_errors(lab: Any, lesson: Any) -> None:
    stored = read(lab.root / "notebooks" / f"{LESSON}.ipynb").cells
    cells = lesson.locator(".jp-Notebook .jp-Cell")
    assert cells.count() == len(stored)
    for place, cell in enumerate(stored):
        if "raises-exception" not in cell.metadata.get("tags", ()):
            shown = cells.nth(place).locator(
                "[data-mime-type='application/vnd.jupyter.error'],"
                "[data-mime-type='application/vnd.jupyter.stderr']"
            )
            assert shown.all_text_contents() == [], f"cell {place + 1}: {cell.source}"


def stored_pictures(lab: Any) -> tuple[int, int]:
    """How many pictures and how many sliders the lesson holds as it is shipped."""
    data = [
        output.get("data", {})
        for cell in read(lab.root / "notebooks" / f"{LESSON}.ipynb").cells
        for output in cell.get("outputs", ())
    ]
    pictures = sum("image/png" in each for each in data)
    sliders = sum('id="slider-' in each.get("text/html", "") for each in data)
    assert pictures > 0 and sliders > 0
    return pictures, sliders


def test_lesson_shows_its_pictures_before_it_is_run(lab: Any, running_lesson: Any) -> None:
    # JupyterLab doesn't trust a fresh clone: it drops scripts and attributes such as `hidden`.
    assert lab.seen_before_run == sum(stored_pictures(lab))


def test_lesson_shows_all_pictures(lab: Any, lesson: Any) -> None:
    pictures, sliders = stored_pictures(lab)
    # Of a slider's pictures one is seen at a time.
    assert lesson.locator(".jp-OutputArea-output img:visible").count() == pictures + sliders
    assert lesson.locator(".jp-OutputArea-output input[type=range]:visible").count() == sliders
    # The hidden ones too: each has to be there when the slider comes to it.
    lesson.wait_for_function(
        """() => [...document.querySelectorAll('.jp-OutputArea-output img')]
            .every(picture => picture.complete && picture.naturalWidth > 0)"""
    )
    lesson.locator(".jp-RenderedImage img").first.scroll_into_view_if_needed()
    lab.keep(lesson, "figure")


def test_mathematics_is_typeset(lesson: Any) -> None:
    lesson.locator(".jp-MarkdownCell mjx-container").first.wait_for()
    assert lesson.locator("mjx-merror, [data-mjx-error]").all_text_contents() == []


def test_slider_changes_the_picture(lab: Any, lesson: Any) -> None:
    slider = lesson.locator(".jp-OutputArea-output input[type=range]").first
    picture = lesson.locator(".jp-OutputArea-output div:has(> p > input[type=range])").first
    picture = picture.locator("img:visible")
    slider.scroll_into_view_if_needed()
    before = picture.get_attribute("src")  # the picture itself, as data:image/png
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    lesson.mouse.move(box["x"] + 8, middle)
    lesson.mouse.down()
    lesson.mouse.move(box["x"] + 0.6 * box["width"], middle)
    lesson.mouse.up()
    assert int(slider.input_value()) > 0
    assert picture.count() == 1
    assert picture.get_attribute("src") != before
    lab.keep(lesson, "slider")


def test_second_start_is_quick(lab: Any) -> None:
    # The first one, above, had to read everything from disk.
    start = time.monotonic()
    with lab.start_server():
        seconds = time.monotonic() - start
    assert seconds < 10, f"JupyterLab answered after {seconds:.1f} s"


def test_no_request_leaves_the_machine(lab: Any, lesson: Any) -> None:
    # Stands last: it looks at what all the tests above have asked for.
    assert any(address.startswith("ws://") for address in lab.requests)
    away = {
        address
        for address in lab.requests
        if urlsplit(address).scheme not in ("data", "blob")
        and urlsplit(address).hostname not in ("127.0.0.1", "localhost")
    }
    assert not away, f"the page asks other machines: {sorted(away)}"
