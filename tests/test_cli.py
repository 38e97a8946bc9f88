"""The command line, as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sewkit.cli.main import app, main
from sewkit.cli.sources import find_audio, unique_stems
from sewkit.doctor import CLIP_TEXT
from sewkit.transcript import Transcript

RATE = 16_000


def run(*arguments: object, status: int = 0, stdin: bytes | None = None) -> tuple[str, str]:
    """Run a verb in this process; gives back standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path: Path, noise: np.random.Generator) -> Path:
    """Two good recordings and every kind of bad one."""
    good = noise.standard_normal(RATE).astype(np.float32) * 0.3
    soundfile.write(tmp_path / "good.wav", good, RATE)
    soundfile.write(tmp_path / "phone.wav", np.stack([good, good], 1)[:8000], 8000, subtype="PCM_U8")
    soundfile.write(tmp_path / "whole.flac", np.tile(good, 20), RATE)
    whole = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "whole.flac").unlink()
    (tmp_path / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is not sound\n")
    soundfile.write(tmp_path / "silent.wav", np.zeros(0, np.float32), RATE)
    broken = good.copy()
    broken[8000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    return tmp_path


def test_bad_recordings_get_a_line_each_the_good_ones_are_done_and_the_status_says_so(
    folder: Path, toy_folder: Path
) -> None:
    (folder / "no-sound-here").mkdir()
    out, err = run("transcribe", folder, folder / "missing.wav", folder / "no-sound-here", "-m", toy_folder, status=1)
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(folder / "good.wav"), str(folder / "phone.wav")]
    problems = {line.split(": ")[1].removeprefix(str(folder) + "/"): line for line in err.splitlines()}
    for name, words in {
        "empty.wav": "empty (0 bytes); record or download",
        "text.wav": "this is text, not audio",
        "truncated.flac": "download or encode it again",
        "silent.wav": "holds no samples",
        "nan.wav": "the sample at 0.500 s is nan",
        "missing.wav": "no such file; check the path",
        "no-sound-here": "no audio in this folder",
    }.items():
        assert words in problems.pop(name)
    assert not problems


def test_one_file_prints_its_text_alone(folder: Path, toy_folder: Path) -> None:
    out, err = run("transcribe", folder / "good.wav", "-m", toy_folder)
    assert len(out.splitlines()) == 1
    assert str(folder) not in out
    assert err == ""


def test_json_has_one_document_a_line(folder: Path, toy_folder: Path) -> None:
    out, _ = run("transcribe", folder / "good.wav", folder / "phone.wav", "-m", toy_folder, "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert [Path(document["source"]).name for document in documents] == ["good.wav", "phone.wav"]
    assert documents[0]["duration"] == 1.0
    assert documents[0]["compute"] == {"squeeze": 2, "query_pool": 1, "kv_pool": 1}


def test_every_format_is_written_and_named_after_its_recording(folder: Path, toy_folder: Path) -> None:
    out_dir = folder / "out"
    out, err = run("transcribe", folder / "good.wav", "-m", toy_folder, "-f", "all", "-o", out_dir)
    assert out == ""
    assert {path.name for path in out_dir.iterdir()} == {
        f"good.{form}" for form in ("txt", "srt", "vtt", "tsv", "json", "ctm", "TextGrid")
    }
    assert err.count("wrote ") == 7


def test_standard_input_is_a_recording(folder: Path, toy_folder: Path) -> None:
    """In a process of its own: a real pipe, which can't be rewound."""
    command = [sys.executable, "-m", "sewkit", "transcribe", "-", "-m", str(toy_folder)]
    result = subprocess.run(command, input=(folder / "good.wav").read_bytes(), capture_output=True, check=True)
    assert result.stdout.decode() == run("transcribe", folder / "good.wav", "-m", toy_folder)[0]


def test_a_pipe_is_read_once(folder: Path, toy_folder: Path) -> None:
    """As the shell names it for <(...)."""
    end, other_end = os.pipe()
    os.write(other_end, (folder / "phone.wav").read_bytes())
    os.close(other_end)
    command = [sys.executable, "-m", "sewkit", "transcribe", f"/dev/fd/{end}", "-m", str(toy_folder)]
    result = subprocess.run(command, pass_fds=(end,), capture_output=True, check=True)
    os.close(end)
    assert result.stdout.decode() == run("transcribe", folder / "phone.wav", "-m", toy_folder)[0]


def test_patterns_are_expanded_here_too(folder: Path) -> None:
    problems: list[object] = []
    assert find_audio([f"{folder}/g*.wav", f"{folder}/good.wav"], problems.append) == [f"{folder}/good.wav"]
    assert find_audio([f"{folder}/*.mp3"], problems.append) == []
    assert "no file matches" in str(problems[0])


def test_recordings_of_one_name_get_files_of_their_own() -> None:
    stems = unique_stems(["a/x.wav", "b/x.wav", "b/x.mp3", "x.wav", "-", "../x.wav"])
    assert stems["a/x.wav"] == "x"
    assert stems["b/x.wav"] == "b-x"
    assert stems["-"] == "stdin"
    assert len(set(stems.values())) == 6


def test_an_unknown_model_names_those_that_sound_like_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sewkit", "transcribe", str(folder / "good.wav"), "-m", "sew-wrods"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "sew-words" in err


def test_an_unknown_format_is_refused_before_any_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sewkit.errors import UserError

    with pytest.raises(UserError, match="output format 'docx' is not known; expected txt, srt"):
        run("transcribe", folder / "good.wav", "-f", "docx")


def test_info_shows_cost_by_stage(toy_folder: Path) -> None:
    facts = json.loads(run("info", "sew-d-tiny", "--json")[0])
    assert facts["parameters"] == 24_115_103
    assert facts["encoder_rate_hz"] == 25
    assert sum(facts["macs_per_second_by_stage"].values()) == pytest.approx(facts["macs_per_second"], rel=1e-6)
    assert "squeeze=2" in run("info", toy_folder)[0]


def test_convert_writes_a_model_that_loads(toy_folder: Path, tmp_path: Path) -> None:
    out, _ = run("convert", toy_folder, tmp_path / "copy", "--half")
    assert "sew" in out
    assert (tmp_path / "copy" / "model.safetensors").stat().st_size < (toy_folder / "model.safetensors").stat().st_size
    assert "32 letters" in run("info", tmp_path / "copy")[0]


def test_average_writes_a_model_that_loads(toy_folder: Path, tmp_path: Path) -> None:
    out, _ = run("average", toy_folder, toy_folder, "-o", tmp_path / "mean")
    assert out == f"wrote {tmp_path / 'mean'}: the mean of 2 models\n"
    assert "32 letters" in run("info", tmp_path / "mean")[0]


def test_doctor_checks_that_batches_change_nothing(toy_folder: Path) -> None:
    out, _ = run("doctor", "-m", toy_folder)
    assert "ok  padded batch equals single clips" in out
    assert "extra audio: av" in out


@pytest.mark.parametrize(("heard", "status"), [(CLIP_TEXT.replace("MISTER", "MISTR"), 0), ("SOMETHING ELSE", 1)])
def test_doctor_verifies_a_published_model_by_the_words_it_reads(
    heard: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcript = Transcript(heard, [], [], 7.1, None, "clip")
    monkeypatch.setattr("sewkit.doctor.load", lambda model: SimpleNamespace(transcribe=lambda clip: transcript))
    out, _ = run("doctor", "--verify", "asapp/sew-tiny-100k-ft-ls100h", status=status)
    assert ("FAILED" in out) == bool(status)
    assert heard in out


def test_help_needs_no_torch() -> None:
    """So that it appears at once: the heavy imports stay inside the verbs."""
    code = "import sys, sewkit.cli.main; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_is_broken_by_the_terminal_not_by_the_docstring() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    for command in (command for group in groups if group for command in group.registered_commands):
        assert command.help
        assert "\n" not in command.help.replace("\n\n", "")


def test_every_verb_has_help_with_an_example() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "Example:  sewkit" in (command.callback.__doc__ or "")
        assert "Usage" in run(command.name, "--help")[0]
