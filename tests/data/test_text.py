"""Texts that are there on every machine, and a reader's own file."""

import contextlib
import io
import os
import pydoc

import pytest

from transformer_lab.data import python_topics, read_text


def test_topics_are_what_help_shows():
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        pydoc.Helper(output=shown).showtopic("LOOPING")
    lines = [line.strip() for line in shown.getvalue().splitlines() if len(line.strip()) > 50]
    lines = [line for line in lines if not line.startswith("Related")]
    in_text = {line.strip() for line in python_topics().splitlines()}
    assert len(lines) > 3
    assert set(lines) <= in_text


def test_topics_are_long_and_in_order():
    text = python_topics()
    assert 400_000 < len(text) < 700_000
    assert text == python_topics()
    titles = ('The "assert" statement\n', 'The "break" statement\n', 'The "while" statement\n')
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert text[places[1] - 2 : places[1]] == "\n\n"


def test_topics_are_sorted_whatever_their_order(monkeypatch):
    monkeypatch.setattr("transformer_lab.data.text.topics", {"b": "B\n", "a": "A\n"})
    assert python_topics() == "A\n\nB\n"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Grüße, 世界\n".encode(), "Grüße, 世界\n"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfmarked \xef\xbb\xbf", "marked \ufeff"),
        (b"  x", "  x"),
    ],
)
def test_reads_as_it_stands(tmp_path, raw, text):
    path = tmp_path / "own.txt"
    path.write_bytes(raw)
    assert read_text(path) == text
    assert read_text(str(path)) == text


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "own.txt").write_text("mine", encoding="utf-8")
    assert read_text(os.path.join("~", "own.txt")) == "mine"  # noqa: PTH118


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "there is no file .*own.txt; check its name"),
        (b"", "own.txt has no text in it"),
        (b"\xef\xbb\xbf \n\t", "own.txt has no text in it"),
        (b"one\ntwo\nGr\xfc\xdfe", r"must be UTF-8; byte 10 \(line 3\) is 0xfc"),
        ("\ufeffabc".encode("utf-16"), r"byte 0 \(line 1\) is 0xff"),
        ("abc€".encode()[:-1], r"byte 3 \(line 1\) is 0xe2"),
    ],
)
def test_bad_files_are_named(tmp_path, raw, says):
    path = tmp_path / "own.txt"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(ValueError, match=says):
        read_text(path)


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the path of one text file"):
        read_text(tmp_path)
    with pytest.raises(TypeError, match="path must be a str or a Path; it is a int"):
        read_text(3)
