"""The command trains, saves, goes on where it was, and says what is wrong."""

import json

import pytest
import torch
from typer.testing import CliRunner

from transformer_lab.tokenizers import CharacterTokenizer
from transformer_lab.training import History, latest, load
from transformer_lab.training.__main__ import app

SMALL = "--layers 1 --width 8 --heads 2 --context 8 --batch 2 --every 2 --length 5 --samples 1"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat.\n" * 30, encoding="utf-8")
    return path


def run(*arguments):
    words = [*SMALL.split(), *(str(each) for each in arguments)]
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize(
    "options",
    [[], ["--model", "llama", "--optimizer", "muon", "--accumulate", 2], ["--vocab", 260]],
    ids=["gpt", "llama", "pairs of bytes"],
)
def test_it_trains_and_writes(text, options):
    done = run(text, "--steps", 4, *options)
    assert done.exit_code == 0, done.output
    assert "Begins. " in done.output
    assert "step 4 of 4: loss " in done.output
    assert ", validation " in done.output
    assert "--- sample 1" in done.output


def test_it_goes_on_where_it_was(text, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(text, "--steps", 4, "--checkpoints", whole).exit_code == 0

    def stopped(*_, **__):
        raise ValueError("stopped")

    with monkeypatch.context() as patch:
        saved = "transformer_lab.training.checkpoints.save"
        original = __import__("transformer_lab.training", fromlist=["save"]).save
        patch.setattr(saved, lambda *a, **k: (original(*a, **k), stopped()))
        assert run(text, "--steps", 4, "--checkpoints", parts).exit_code == 2
    assert load(latest(parts)).step == 2
    done = run(text, "--steps", 4, "--checkpoints", parts, "--resume")
    assert done.exit_code == 0, done.output
    assert "Goes on after step-00000002." in done.output
    one, other = load(latest(whole)), load(latest(parts))
    assert one.step == other.step == 4
    assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())
    losses = [History.from_json(each.rest["history"]).losses for each in (one, other)]
    assert losses[0] == losses[1]


def test_the_folder_holds_tokenizer_and_settings(text, tmp_path):
    folder = tmp_path / "run"
    run(text, "--steps", 2, "--checkpoints", folder)
    assert CharacterTokenizer.load(folder / "tokenizer").decode([1, 2]) == " ."
    assert json.loads((folder / "settings.json").read_text())["width"] == 8


def test_it_learns_from_pythons_topics_by_itself():
    done = run("--steps", 1, "--samples", 0)
    assert done.exit_code == 0, done.output
    assert "tokens to learn from" in done.output


def test_help_explains_every_option():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for option in ("--steps", "--checkpoints", "--resume", "--optimizer", "--seed", "--context"):
        assert option in done.output


def test_what_is_wrong_is_said_in_one_line(text, tmp_path):
    folder = tmp_path / "run"
    run(text, "--steps", 2, "--checkpoints", folder)
    for words, says in (
        ([tmp_path / "none.txt"], "there is no file"),
        ([text, "--width", 9], "d_model must be a multiple of num_heads"),
        ([text, "--resume"], "--resume needs --checkpoints FOLDER"),
        ([text, "--steps", 2, "--checkpoints", folder], "holds a training already"),
        (
            [text, "--steps", 3, "--checkpoints", folder, "--resume", "--seed", 4],
            "was begun with --steps 2, --seed 0",
        ),
        ([text, "--context", 9999], "must hold at least one window"),
        ([text, "--prompt", "Ω", "--steps", 1], "Ω"),
    ):
        done = run(*words)
        assert done.exit_code == 2, (words, done.output)
        assert says in " ".join(done.output.split())
        assert "Traceback" not in done.output
