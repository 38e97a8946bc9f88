"""`sewkit align`, as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sewkit.cli.main import app, main

RATE = 16_000


def run(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Run a verb in this process; gives back standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path: Path, noise: np.random.Generator) -> Path:
    """Two recordings with texts, and each kind of bad text."""
    sound = noise.standard_normal(RATE).astype(np.float32) * 0.3
    texts = {"a": "Yes, no!", "b": "up", "digits": "room 42", "empty": " \n", "long": "stop " * 50, "textless": None}
    for name, text in texts.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE)
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def test_a_line_for_each_word_says_when_it_is_spoken(folder: Path, toy_folder: Path) -> None:
    out, err = run("align", folder / "a.wav", "Yes, no!", "-m", toy_folder)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[2] for row in rows] == ["Yes,", "no!"]
    times = [float(time) for row in rows for time in row[:2]]
    assert times == sorted(times)
    assert times[-1] <= 1.0
    assert "not heard" in err  # of noise and random weights


def test_a_text_may_be_words_a_file_or_the_file_beside_the_recording(folder: Path, toy_folder: Path) -> None:
    given = [run("align", folder / "a.wav", *text, "-m", toy_folder) for text in (["Yes, no!"], [folder / "a.txt"], [])]
    assert given[0] == given[1] == given[2]


def test_a_folder_is_aligned_with_the_texts_in_it_and_each_bad_one_gets_a_line(folder: Path, toy_folder: Path) -> None:
    out, err = run("align", folder, "-m", toy_folder, status=1)
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(folder / f"{name}.wav") for name in "aab"]
    problems = [line for line in err.splitlines() if "not heard" not in line]
    for name, words in {
        "digits": "cannot spell 4 2 (in 42): write numbers",
        "empty": "the text to align is empty",
        "long": "letters need at least",
        "textless": "textless.txt: cannot be read (No such file or directory)",
    }.items():
        (line,) = (problem for problem in problems if problem.startswith(f"sewkit: {folder / name}.wav: "))
        assert words in line
    assert len(problems) == 4


def test_missing_recordings_texts_and_unknown_formats_are_one_line(
    folder: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, words in [
        ([folder / "no.wav"], "no such file"),
        ([folder / "no.wav", "yes"], "no such file"),
        ([folder / "a.wav", folder / "no.txt"], "no.txt: cannot be read"),
        ([folder, "yes"], "one text goes with one recording, found 6; leave TEXT out"),
        ([folder / "a.wav", "yes", "-f", "docx"], "'docx' is not known; expected"),
        (["-"], "needs TEXT"),
    ]:
        monkeypatch.setattr("sys.argv", ["sewkit", "align", *map(str, arguments), "-m", str(toy_folder)])
        with pytest.raises(SystemExit) as status:
            main()
        assert status.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_files_are_written_by_default_as_textgrid(folder: Path, toy_folder: Path) -> None:
    run("align", folder / "a.wav", "-o", folder / "out", "-m", toy_folder)
    assert [path.name for path in (folder / "out").iterdir()] == ["a.TextGrid"]
    run("align", folder / "a.wav", "-o", folder / "all", "-f", "all", "-m", toy_folder)
    assert {path.suffix for path in (folder / "all").iterdir()} >= {".TextGrid", ".ctm", ".json", ".srt"}


def test_json_holds_characters_scores_and_missing_words(folder: Path, toy_folder: Path) -> None:
    out, _ = run("align", folder / "a.wav", "yes no", "--json", "--no-snap", "-m", toy_folder)
    document = json.loads(out)
    words = [word for segment in document["segments"] for word in segment["words"]]
    assert [word["word"] for word in words] == ["yes", "no"]
    assert {"start", "end", "confidence", "score", "missing", "characters"} <= words[0].keys()
    assert [character["character"] for character in words[0]["characters"]] == ["Y", "E", "S"]
    assert document["score"] < 0
