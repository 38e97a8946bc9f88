"""A language model with a speech model: found in its folder, tuned, used by the recognizer and the command line."""

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import sewkit
from sewkit.checkpoint import save_model
from sewkit.cli.main import app
from sewkit.decode import BeamSearch, FusionWeights, GreedySearch, Pruning
from sewkit.decode.lm import LanguageModelError, NGramModel, build_arpa, load_lm, write_arpa
from sewkit.decode.lm.folder import find_lm, store_lm
from sewkit.testing import synthetic_speech, toy_model
from sewkit.text import Alphabet

RATE = 16_000


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", toy_model("sew"), Alphabet.english())
    return tmp_path / "model"


@pytest.fixture
def lm_file(tmp_path: Path) -> Path:
    write_arpa(tmp_path / "words.arpa", build_arpa(["one two three", "two one", "three three one"], 2))
    return tmp_path / "words.arpa"


def test_what_is_stored_is_found_and_used(model_folder: Path, lm_file: Path) -> None:
    assert find_lm(model_folder) is None
    assert isinstance(sewkit.load(model_folder).decoder, GreedySearch)
    weights = FusionWeights(alpha=0.8, beta=-1.0, unk_score_offset=-4.0, score_boundary=False)
    folder = store_lm(model_folder, lm_file, weights, Alphabet.english())
    store_lm(model_folder, folder / "words.arpa", weights, Alphabet.english())  # the stored one again
    assert sorted(path.name for path in folder.iterdir()) == ["attrs.json", "unigrams.txt", "words.arpa"]
    stored = find_lm(model_folder)
    assert stored is not None
    assert (stored.weights, sorted(stored.words or [])) == (weights, ["one", "three", "two"])
    decoder = sewkit.load(model_folder).decoder
    assert isinstance(decoder, BeamSearch)
    assert decoder.weights == weights


def test_the_folder_is_laid_out_as_pyctcdecode_reads_it(model_folder: Path, lm_file: Path) -> None:
    store_lm(model_folder, lm_file, FusionWeights(), Alphabet.english())
    labels = json.loads((model_folder / "alphabet.json").read_text())
    assert labels["is_bpe"] is False
    assert labels["labels"][:6] == ["", "<s>", "</s>", "<unk>", " ", "E"]
    attrs = json.loads((model_folder / "language_model" / "attrs.json").read_text())
    assert attrs == {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}


def test_a_folder_with_two_models_or_wrong_weights_is_refused(model_folder: Path, lm_file: Path) -> None:
    folder = store_lm(model_folder, lm_file, FusionWeights(), Alphabet.english())
    (folder / "attrs.json").write_text('{"alfa": 1}')
    with pytest.raises(LanguageModelError, match=r"attrs\.json: expected a JSON object with alpha, beta"):
        find_lm(model_folder)
    (folder / "other.bin").write_bytes(b"")
    with pytest.raises(LanguageModelError, match=r"expected one file .* found other\.bin, words\.arpa"):
        find_lm(model_folder)
    with pytest.raises(sewkit.UserError, match="not a model's folder"):
        store_lm(folder, lm_file, FusionWeights(), Alphabet.english())


def test_the_recognizer_decodes_chunks_by_beam_as_their_logits_at_once(
    model_folder: Path, lm_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asr = sewkit.load(model_folder)
    asr.batch_seconds = 40.0  # chunks of different lengths share batches, and come back in another order
    search = asr.beam_search(lm_file, hotwords={"SEVEN": 3.0}, pruning=Pruning(width=8))
    samples = synthetic_speech(int(12.3 * RATE))
    whole = asr.transcribe(samples, decoder=search)
    logits = asr.logits([samples])[0]
    assert whole.text == search.decode(logits[: len(logits) // 2 * 2])[0].text
    assert [word.text for word in whole.words] == whole.text.split()
    assert all(0 <= word.start < word.end <= 12.3 and 0 <= word.confidence <= 1 for word in whole.words)
    long = synthetic_speech(int(70 * RATE), seed=1)
    in_order = []
    feed = type(search.start()).feed

    def noting(state: object, piece: np.ndarray) -> None:
        in_order.append((id(state), len(piece)))
        feed(state, piece)  # type: ignore[arg-type]

    monkeypatch.setattr(type(search.start()), "feed", noting)
    transcripts = list(asr.transcribe_batch([long, samples, long], decoder=search))
    assert transcripts[0].words == transcripts[2].words
    assert transcripts[1].words == whole.words
    assert len({state for state, _ in in_order}) == 3
    assert len(in_order) > 5


def test_a_search_made_from_the_present_decoder_keeps_its_language_model(model_folder: Path, lm_file: Path) -> None:
    asr = sewkit.load(model_folder, lm=lm_file)
    assert isinstance(asr.decoder, BeamSearch)
    search = asr.beam_search(hotwords=["ZERO"])
    assert search.lm is asr.decoder.lm
    assert search.weights == asr.decoder.weights


def test_save_takes_the_language_model_along_with_weights_and_words(
    model_folder: Path, lm_file: Path, tmp_path: Path
) -> None:
    asr = sewkit.load(model_folder)
    asr.decoder = asr.beam_search(lm_file, weights=FusionWeights(alpha=0.8, beta=-1.0))
    asr.save(tmp_path / "copy")
    lm_file.unlink()
    copied = sewkit.load(tmp_path / "copy").decoder
    assert isinstance(copied, BeamSearch)
    assert copied.weights == FusionWeights(alpha=0.8, beta=-1.0)
    assert sorted(copied.words or []) == ["one", "three", "two"]
    samples = synthetic_speech(2 * RATE)
    again = sewkit.load(tmp_path / "copy")
    again.save(tmp_path / "copy")  # onto itself
    assert again.transcribe(samples).text == asr.transcribe(samples).text
    assert sewkit.load(tmp_path / "copy").decoder.weights == copied.weights  # type: ignore[attr-defined]


def test_a_language_model_in_memory_is_not_lost_in_silence(model_folder: Path, tmp_path: Path) -> None:
    asr = sewkit.load(model_folder)
    asr.decoder = asr.beam_search(NGramModel(build_arpa(["one two"], 2)))
    with pytest.raises(sewkit.UserError, match="built in memory"):
        asr.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def hub_folder(folder: Path, lm_name: str, lm: bytes) -> None:
    """What models with a language model look like on the hub, in transformers' and pyctcdecode's layout."""
    (folder / "language_model").mkdir()
    (folder / "language_model" / lm_name).write_bytes(lm)
    (folder / "language_model" / "unigrams.txt").write_text("ONE\nTHREE\nTWO")
    attrs = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (folder / "language_model" / "attrs.json").write_text(json.dumps(attrs))
    labels = [" " if token == "|" else token for token in Alphabet.english().tokens]
    (folder / "alphabet.json").write_text(json.dumps({"labels": ["", *labels[1:]], "is_bpe": False}))


def test_a_hub_id_brings_the_language_model_of_its_repository(
    model_folder: Path, lm_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arpa(lm_file, build_arpa(["ONE TWO THREE", "TWO ONE"], 2))
    hub_folder(model_folder, "4-gram.arpa", lm_file.read_bytes())
    (model_folder / "README.md").write_text("not asked for")
    cache = tmp_path / "snapshots" / "c0ffee"

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], revision: str | None = None) -> str:
        for path in model_folder.rglob("*"):
            name = path.relative_to(model_folder)
            if path.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    asr = sewkit.load("someone/sew-tiny-with-lm")
    assert isinstance(asr.decoder, BeamSearch)
    assert (asr.decoder.words, asr.decoder.weights) == (["ONE", "THREE", "TWO"], FusionWeights())
    assert not (cache / "README.md").exists()
    asr.save(tmp_path / "mine")
    assert find_lm(tmp_path / "mine") is not None


def test_a_kenlm_binary_that_cannot_be_read_here_leaves_the_model_usable(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    hub_folder(model_folder, "4gram.bin", b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.warns(UserWarning, match=r"decoding greedily, .* pip install 'sewkit\[lm\]'"):
        asr = sewkit.load(model_folder)
    assert isinstance(asr.decoder, GreedySearch)


# ---- the command line


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", synthetic_speech(RATE, seed=number), RATE)
        row = {"audio": f"{number}.wav", "text": "ONE TWO", "speaker": "s", "duration": 1.0, "split": "dev"}
        rows.append(json.dumps(row))
    (tmp_path / "dev.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "dev.jsonl"


def test_lm_build_writes_a_model_that_transcribe_uses(tmp_path: Path, model_folder: Path, manifest: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("ONE TWO THREE\nTWO ONE\n")
    run = CliRunner().invoke
    built = run(app, ["lm", "build", str(corpus), "-o", str(tmp_path / "lm.arpa"), "--order", "2", "--json"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["ngrams"] == [6, 7]
    assert load_lm(tmp_path / "lm.arpa").order == 2
    options = ["--lm", str(tmp_path / "lm.arpa"), "--hotword", "SEVEN=2", "--beam", "4", "--alpha", "0.7", "--json"]
    heard = run(app, ["transcribe", str(tmp_path / "0.wav"), "--model", str(model_folder), *options])
    assert heard.exit_code == 0, heard.output
    asr = sewkit.load(model_folder)
    search = asr.beam_search(
        tmp_path / "lm.arpa", weights=FusionWeights(alpha=0.7), hotwords={"SEVEN": 2.0}, pruning=Pruning(width=4)
    )
    assert json.loads(heard.stdout)["text"] == asr.transcribe(tmp_path / "0.wav", decoder=search).text


def test_tune_lm_stores_the_best_weights_and_prints_all(model_folder: Path, lm_file: Path, manifest: Path) -> None:
    options = ["--model", str(model_folder), "--lm", str(lm_file), "--tune-lm", "--beam", "4"]
    tuned = CliRunner().invoke(app, ["evaluate", str(manifest), *options, "--json"])
    assert tuned.exit_code == 0, tuned.output
    found = json.loads(tuned.stdout)
    assert len(found["trials"]) == 42
    assert min(trial["wer"] for trial in found["trials"]) == next(
        trial["wer"]
        for trial in found["trials"]
        if (trial["alpha"], trial["beta"]) == (found["weights"]["alpha"], found["weights"]["beta"])
    )
    stored = find_lm(model_folder)
    assert stored is not None
    assert stored.weights == FusionWeights(**found["weights"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beam", "0", "--hotword", "A"], "decodes greedily"),
        (["--hotword", "ÉTÉ"], "characters outside the alphabet"),
        (["--alpha", "1"], "give one with --lm"),
        (["--lm", "missing.arpa"], "no such file"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    tmp_path: Path, model_folder: Path, manifest: Path, options: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["transcribe", str(tmp_path / "0.wav"), "--model", str(model_folder), *options])
    assert isinstance(result.exception, sewkit.UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
