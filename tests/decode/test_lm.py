"""n-gram models: read, queried and built as KenLM does it; what is malformed is named with its line."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sewkit.decode.lm import Arpa, LanguageModelError, NGramModel, build_arpa, load_lm, read_arpa, write_arpa
from sewkit.decode.lm.building import build_from_files, build_with_lmplz
from sewkit.decode.lm.kenlm import KenLMModel, _listed_words
from sewkit.errors import MissingExtraError, UserError

DATA = Path(__file__).parent / "data"
CORPUS = (DATA / "corpus.txt").read_text().splitlines()
ARPA = r"""made by hand

\data\
ngram 1=5
ngram 2=3
ngram 3=1

\1-grams:
-1.0	<unk>
-99	<s>	-0.5
-0.7	</s>
-0.4	a	-0.3
-0.6	b

\2-grams:
-0.2	<s> a	-0.1
-0.3	a b	-0.25
-0.9	b </s>

\3-grams:
-0.05	<s> a b

\end\
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def entries(arpa: Arpa) -> dict[str, tuple[float, float]]:
    found = {}
    for ngrams in arpa.orders:
        for words, prob, backoff in zip(ngrams.words.tolist(), ngrams.log10_prob, ngrams.log10_backoff, strict=True):
            found[" ".join(arpa.vocabulary[word] for word in words)] = (float(prob), float(backoff))
    return found


# ---- queries


def test_scores_are_kenlms() -> None:
    """Recorded by KenLM 0.3.0 on its own pruned 4-gram model; both keep float32."""
    model = load_lm(DATA / "lmplz.arpa")
    assert isinstance(model, NGramModel)
    cases = json.loads((DATA / "kenlm_scores.json").read_text())
    assert len(cases) == 60
    for case in cases:
        np.testing.assert_allclose(model.word_scores(case["sentence"].split()), case["log10"], atol=3e-6)


def test_backing_off_adds_the_weights_of_the_contexts_left_behind(tmp_path: Path) -> None:
    model = NGramModel(read_arpa(write(tmp_path / "lm.arpa", ARPA)))
    # "<s> a b" stands there; after it "</s>" backs off from "a b" to "b </s>".
    assert model.word_scores(["a", "b"]) == pytest.approx([-0.2, -0.05, -0.25 - 0.9])
    # "b" has no weight, which is 0; "<s> b" backs off with -0.5.
    assert model.word_scores(["b", "a"]) == pytest.approx([-0.5 - 0.6, 0.0 - 0.4, -0.3 - 0.7])
    assert model.word_scores(["zebra"])[0] == pytest.approx(-0.5 - 1.0)
    assert model.word_scores([]) == pytest.approx([-0.5 - 0.7])


def test_a_context_that_a_toolkit_pruned_away_does_not_lose_the_longer_ngram(tmp_path: Path) -> None:
    text = ARPA.replace("-0.2\t<s> a\t-0.1\n", "").replace("ngram 2=3", "ngram 2=2")
    model = NGramModel(read_arpa(write(tmp_path / "lm.arpa", text)))
    assert model.word_scores(["a", "b"])[:2] == pytest.approx([-0.5 - 0.4, -0.05])


def test_a_model_without_unk_gives_unknown_words_what_kenlm_gives_them(tmp_path: Path) -> None:
    text = ARPA.replace("-1.0\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")
    model = NGramModel(read_arpa(write(tmp_path / "lm.arpa", text)))
    assert model.word_scores(["zebra"])[0] == pytest.approx(-0.5 - 100)


# ---- reading


def test_written_gzipped_and_read_a_model_is_the_same(tmp_path: Path) -> None:
    arpa = build_arpa(CORPUS, 3)
    write_arpa(tmp_path / "a.arpa", arpa)
    write_arpa(tmp_path / "a.arpa.gz", arpa)
    assert gzip.decompress((tmp_path / "a.arpa.gz").read_bytes()) == (tmp_path / "a.arpa").read_bytes()
    for name in ("a.arpa", "a.arpa.gz"):
        read = read_arpa(tmp_path / name)
        assert read.vocabulary == arpa.vocabulary
        for ours, theirs in zip(read.orders, arpa.orders, strict=True):
            np.testing.assert_array_equal(ours.words, theirs.words)
            np.testing.assert_allclose(ours.log10_prob, theirs.log10_prob, rtol=1e-6)
            np.testing.assert_allclose(ours.log10_backoff, theirs.log10_backoff, rtol=1e-6)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("ngram 2=3", "ngram 2:3", "line 5: expected 'ngram 2=COUNT', found 'ngram 2:3'"),
        ("ngram 2=3", "ngram 2=4", r"line 20: 3 2-grams stand before this line, the header promised 4"),
        ("\\2-grams:", "\\3-grams:", r"line 15: expected \\2-grams:, found '\\\\3-grams:'"),
        ("-0.3\ta b", "oops\ta b", "line 17: 'oops' is not a log10 probability"),
        ("-0.3\ta b", "0.3\ta b", "line 17: log10 probability 0.3 is above 0"),
        ("a b\t-0.25", "a b\tx", "line 17: 'x' is not a log10 back-off weight"),
        ("a b\t-0.25", "a c\t-0.25", "line 17: the word 'c' is not among the 1-grams"),
        ("a b\t-0.25", "a\t", "line 17: expected a probability, 2 words and perhaps a back-off weight, found 2 fields"),
        ("-0.6\tb", "-0.6\ta", "line 13: the word 'a' stands twice"),
        ("\\end\\\n", "", r"line 22: the file stops without \\end\\"),
        ("\\data\\", "data", r"no \\data\\ line, so this is not an ARPA file"),
        ("-0.3\ta b", "-0.3\t<s> a", "the 2-gram '<s> a' stands twice"),
        ("<s>", "<t>", "the 1-grams lack <s>"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(tmp_path: Path, good: str, bad: str, message: str) -> None:
    assert good in ARPA
    with pytest.raises(LanguageModelError, match=message) as caught:
        load_lm(write(tmp_path / "lm.arpa", ARPA.replace(good, bad)))
    assert str(tmp_path / "lm.arpa") in str(caught.value)


def test_a_damaged_gzip_file_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    packed = gzip.compress(ARPA.encode())
    (tmp_path / "cut.arpa.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(LanguageModelError, match="damaged gzip"):
        load_lm(tmp_path / "cut.arpa.gz")
    with pytest.raises(LanguageModelError, match="no such file"):
        load_lm(tmp_path / "none.arpa")


def test_a_kenlm_binary_without_kenlm_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(MissingExtraError, match=r"pip install 'sewkit\[lm\]'"):
        load_lm(tmp_path / "lm.bin")


# ---- building


def test_the_builder_equals_lmplz() -> None:
    """Every n-gram of the same text, order and pruning; both print seven digits."""
    ours, theirs = entries(build_arpa(CORPUS, 4, prune=(0, 0, 1))), entries(read_arpa(DATA / "lmplz.arpa"))
    assert ours.keys() == theirs.keys()
    for ngram, (prob, backoff) in theirs.items():
        expected = (prob if ngram != "<s>" else -99.0, backoff)  # never asked for; lmplz writes 0
        assert ours[ngram] == pytest.approx(expected, abs=2e-6), ngram


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("prune", [(), (0, 1), (0, 1, 2)])
def test_probabilities_sum_to_one_after_every_history(order: int, prune: tuple[int, ...]) -> None:
    model = NGramModel(build_arpa(CORPUS, order, prune=prune))
    predicted = [index for index, word in enumerate(model.vocabulary) if word != "<s>"]
    generator = np.random.default_rng(order)
    for _ in range(60):
        state = model.start
        for word in generator.choice(predicted, size=generator.integers(0, 6)).tolist():
            state = model.score(state, word)[1]
        assert sum(10 ** model.score(state, word)[0] for word in predicted) == pytest.approx(1, abs=1e-5)


def test_counting_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_arpa(CORPUS, 4)
    monkeypatch.setattr("sewkit.decode.lm.kneser_ney.CHUNK_WORDS", 37)
    assert entries(build_arpa(CORPUS, 4)) == entries(whole)


def test_files_are_read_in_turn_and_progress_adds_up_to_one(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.txt", "\n".join(CORPUS[:80])), tmp_path / "b.txt.gz"
    second.write_bytes(gzip.compress("\n".join(CORPUS[80:]).encode()))
    shares: list[float] = []
    counts = build_from_files([first, second], tmp_path / "lm.arpa", 3, on_progress=shares.append)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert counts == [len(ngrams.words) for ngrams in build_arpa(CORPUS, 3).orders]
    assert entries(read_arpa(tmp_path / "lm.arpa")).keys() == entries(build_arpa(CORPUS, 3)).keys()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.txt", "b.txt.gz", "lm.arpa"]


LMPLZ = """#!{python}
import sys
arguments = sys.argv[1:]
lines = sys.stdin.buffer.readlines()
print("noise", "x" * 200_000, file=sys.stderr)
if b"fail\\n" in lines:
    sys.exit("out of disk")
with open(arguments[arguments.index("--arpa") + 1], "wb") as file:
    file.write(repr(arguments).encode() + b"\\n" + b"".join(lines))
"""


@pytest.fixture
def lmplz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for KenLM's program: what it is told and reads goes to the file that it should write."""
    program = write(tmp_path / "lmplz", LMPLZ.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_lmplz_gets_the_text_line_by_line_and_its_options(tmp_path: Path, lmplz: None) -> None:
    first, second = write(tmp_path / "a.txt", "one two\r\nthree"), tmp_path / "b.txt.gz"
    second.write_bytes(gzip.compress(b"four\n" * 50_000))
    shares: list[float] = []
    build_with_lmplz([first, second], tmp_path / "lm.arpa", 3, (0, 1), shares.append)
    told, *lines = (tmp_path / "lm.arpa").read_text().splitlines()
    partial = told.split("'--arpa', '")[1].split("'")[0]
    assert told == str(["--order", "3", "--discount_fallback", "--arpa", partial, "--prune", "0", "1"])
    assert lines == ["one two", "three", *["four"] * 50_000]
    assert sum(shares) == pytest.approx(1)
    assert not Path(partial).exists()


def test_lmplz_that_fails_says_why_and_leaves_no_file(tmp_path: Path, lmplz: None) -> None:
    with pytest.raises(UserError, match="lmplz stopped with status 1: out of disk"):
        build_with_lmplz([write(tmp_path / "a.txt", "fail\n")], tmp_path / "lm.arpa")
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(LanguageModelError, match=r"bad\.txt, line 2: not UTF-8"):
        build_with_lmplz([tmp_path / "bad.txt"], tmp_path / "lm.arpa")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "bad.txt", "lmplz"]


def test_lmplz_that_stops_reading_is_no_broken_pipe(tmp_path: Path, lmplz: None) -> None:
    write(tmp_path / "lmplz", "#!/bin/sh\necho no memory >&2\nexit 3\n")
    with pytest.raises(UserError, match="lmplz stopped with status 3: no memory"):
        build_with_lmplz([write(tmp_path / "a.txt", "one two three\n" * 50_000)], tmp_path / "lm.arpa")


@pytest.mark.parametrize(
    ("sentences", "order", "prune", "message"),
    [
        (["", "  "], 3, (), "the text has no words"),
        (["a b", "a </s> b"], 3, (), "line 2 of the text holds </s>"),
        (["a b"], 0, (), "order is 0"),
        (["a b"], 3, (0, 2, 1), "thresholds 0, 2, 1 fall"),
    ],
)
def test_text_that_no_model_can_be_built_from(
    sentences: list[str], order: int, prune: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_arpa(sentences, order, prune=prune)


def test_kenlms_words_are_read_from_the_end_of_its_binary(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").write_bytes(b"mmap lm \0\x01<unk\0 numbers \0<unk>\0<s>\0</s>\0don't\0\xc3\xa9t\xc3\xa9\0")
    assert _listed_words(tmp_path / "lm.bin") == ["<unk>", "<s>", "</s>", "don't", "été"]
    (tmp_path / "bare.bin").write_bytes(b"mmap lm \0\x01 numbers")
    assert _listed_words(tmp_path / "bare.bin") is None


def test_a_kenlm_binary_scores_as_the_arpa_file_it_was_made_from(tmp_path: Path) -> None:
    """Where KenLM is installed; its Python module also reads ARPA files, which stands in for a binary."""
    pytest.importorskip("kenlm")
    ours, theirs = load_lm(DATA / "lmplz.arpa"), KenLMModel(DATA / "lmplz.arpa")
    for sentence in CORPUS[:20]:
        states = [ours.start, theirs.start]
        for word in sentence.split():
            scores = []
            for place, model in enumerate((ours, theirs)):
                index = model.id_of(word)
                assert index is not None
                score, states[place] = model.score(states[place], index)
                scores.append(score)
            assert scores[0] == pytest.approx(scores[1], abs=3e-6)
        assert ours.end(states[0]) == pytest.approx(theirs.end(states[1]), abs=3e-6)
