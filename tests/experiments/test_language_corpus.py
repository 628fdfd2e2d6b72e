"""What the language model reads: real text, each token once, with its end padded and its wrong inputs named."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main as run_experiments
from experiments.data.corpus import FEWEST_CHARACTERS, read_corpus
from experiments.data.token_sequences import BOUNDARY, PADDING, batch_of, learned_tokenizer, sequences, token_data

TEXT = Path(read_corpus.__code__.co_filename).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer():
    return learned_tokenizer([TEXT], 400)


@pytest.mark.slow
def test_standard_library_comes_without_tests_and_always_alike():
    corpus = read_corpus(None, at_most=2_000_000)
    assert corpus == read_corpus(None, at_most=2_000_000)
    assert corpus.characters == 2_000_000
    assert corpus.files > 20


@pytest.mark.parametrize("left_out", ["test", "idlelib/idle_test", "site-packages/package", "json/__pycache__"])
def test_tests_and_installed_packages_are_no_part_of_the_library(tmp_path, monkeypatch, left_out):
    for folder, word in {"json": "kept", left_out: "other"}.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "module.py").write_text(f"{word} " * FEWEST_CHARACTERS)
    (tmp_path / "json" / "data.txt").write_text("other " * FEWEST_CHARACTERS)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    corpus = read_corpus(None)
    assert corpus.files == 1
    assert "".join([*corpus.train, *corpus.held_out]) == "kept " * FEWEST_CHARACTERS


def test_last_sixteenth_is_held_out_and_nothing_is_lost(tmp_path):
    texts = {name: f"{name} " * 10_000 for name in ("first", "second", "third")}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    corpus = read_corpus(tmp_path)
    held_out = sum(map(len, corpus.held_out))
    assert held_out == sum(map(len, texts.values())) // 16
    kept = sorted("".join([*corpus.train, *corpus.held_out]))
    assert kept == sorted("".join(texts.values()))


def test_single_file_and_a_folder_of_it_are_the_same_corpus(tmp_path):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "text"
    file.write_text("some words " * FEWEST_CHARACTERS)
    (tmp_path / "folder" / "image").write_bytes(b"\x89PNG\xff" * FEWEST_CHARACTERS)
    (tmp_path / "folder" / ".hidden").write_text("others " * FEWEST_CHARACTERS)
    assert read_corpus(file)[1:] == read_corpus(tmp_path / "folder")[1:]


def test_sequences_hold_the_text_once_between_two_boundaries_with_padding_at_the_end(tokenizer):
    data = sequences(tokenizer, [TEXT, "x = 1\n"], length=32)
    inputs, labels = data[:, :-1], data[:, 1:]
    np.testing.assert_array_equal(inputs[:-2].ravel()[1:], labels[:-2].ravel()[:-1])
    real = labels[labels != PADDING]
    assert tokenizer.decode(real[real != BOUNDARY].tolist()) == TEXT + "x = 1\n"
    assert (real == BOUNDARY).sum() == 2
    assert (np.diff((data == PADDING).astype(int), axis=1) >= 0).all()
    assert (data[-1] == PADDING).sum() > 20


def test_text_that_spells_out_a_special_token_is_encoded_as_text(tokenizer):
    ids = tokenizer.encode("<|padding|> <|file|>").ids
    assert not {PADDING, BOUNDARY} & set(ids)
    assert tokenizer.decode(ids) == "<|padding|> <|file|>"


def test_small_corpus_gives_a_smaller_vocabulary(tmp_path):
    (tmp_path / "text").write_text("to be or not to be " * 2000)
    data = token_data(read_corpus(tmp_path), 4096, 16)
    assert data.tokenizer.get_vocab_size() < 300


def test_every_sequence_comes_once_before_any_comes_again():
    data = np.arange(22).reshape(11, 2)
    rows = np.concatenate([batch_of(data, 4, seed=0, step=step)[:, 0] for step in range(11)])
    epochs = rows.reshape(4, 11)
    assert all(sorted(epoch) == list(range(0, 22, 2)) for epoch in epochs.tolist())
    assert (epochs[0] != epochs[1]).any()
    assert (batch_of(data, 11, seed=1, step=0)[:, 0] != epochs[0]).any()


@pytest.fixture
def wrong(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").write_text("too short")
    (tmp_path / "binary").write_bytes(b"\xff\x00" * FEWEST_CHARACTERS)
    (tmp_path / "blank").write_text(" \n" * FEWEST_CHARACTERS)
    return tmp_path


@pytest.mark.parametrize("name", ["missing", "empty", "short", "binary", "blank"])
def test_wrong_corpus_is_one_line_and_exit_2(wrong, name, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_experiments(["language_model", "--corpus", str(wrong / name), "--results", str(wrong / "results")])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "argument --corpus" in error
    assert str(wrong / name) in error
    assert not (wrong / "results").exists()


@pytest.mark.parametrize("options", ["--steps 0", "--steps -1", "--steps 1.5", "--steps", "--corpus"])
def test_wrong_option_is_one_line_and_exit_2(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_experiments(["language_model", *options.split()])
    assert capsys.readouterr().err.count("\n") == 1


def test_results_that_cannot_be_written_are_one_line_and_exit_2(tmp_path, capsys):
    (tmp_path / "text").write_text("some words " * FEWEST_CHARACTERS)
    (tmp_path / "file").touch()
    arguments = ["--quick", "--corpus", str(tmp_path / "text"), "--results", str(tmp_path / "file")]
    assert run_experiments(["language_model", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot write results" in error
