"""`sewkit transcribe --live`, `--microphone`, `--segment`, and the shape of subtitles."""

import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner

import sewkit
from sewkit.cli import live
from sewkit.cli.main import app
from sewkit.transcript import Word

RATE = 16_000


def run(*arguments: object, stdin: bytes | None = None) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def samples(noise: np.random.Generator) -> np.ndarray:
    """Bursts and silence, int16."""
    swell = np.repeat(noise.random(40) > 0.5, RATE // 4)
    return (noise.standard_normal(10 * RATE) * 3000 * swell).astype("<i2")


def test_finals_are_lines_and_the_words_of_segment(samples: np.ndarray, toy_folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", samples, RATE)
    lines = run("transcribe", "--live", "-m", toy_folder, stdin=samples.tobytes()).splitlines()
    whole = run("transcribe", "--segment", tmp_path / "clip.wav", "-m", toy_folder)
    assert lines
    assert " ".join(lines) == whole.strip()


def test_json_has_a_line_for_every_event(samples: np.ndarray, toy_folder: Path) -> None:
    events = [
        json.loads(line)
        for line in run("transcribe", "--live", "--json", "-m", toy_folder, stdin=samples.tobytes()).splitlines()
    ]
    assert {event["type"] for event in events} <= {"partial", "final"}
    finals = [event for event in events if event["type"] == "final"]
    lines = run("transcribe", "--live", "-m", toy_folder, stdin=samples.tobytes()).splitlines()
    assert [event["text"] for event in finals if event["text"]] == lines


def test_samples_are_whole_however_the_bytes_come(samples: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples.tobytes() + b"\x07"  # half a sample at the end is dropped

    class Trickle(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(777)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=Trickle(data)))
    blocks = list(live.raw_blocks())
    assert len(blocks) > 100
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


@pytest.mark.parametrize(
    ("arguments", "stdin", "problem"),
    [
        (["--live"], b"RIFF....WAVE", "this is a file with a header; leave --live out"),
        (["--live"], b"", "which ended without one; pipe them in"),
        (["--live", "clip.wav"], b"", "leave out recordings and output files"),
        (["--microphone", "-f", "srt"], b"", "leave out recordings and output files"),
        ([], b"", "nothing to transcribe; name recordings, or hear live sound"),
        (["--live", "--sample-rate", "3"], b"", "a sample rate of 3 Hz"),
        (["--live", "--partial-compute", "squeeze=9"], b"", "does not run at squeeze=9"),
        (["--live", "--partial-compute", "squeeze=x"], b"", "squeeze=x"),
    ],
)
def test_what_cannot_be_heard_is_refused(arguments: list[str], stdin: bytes, problem: str, toy_folder: Path) -> None:
    with pytest.raises(sewkit.UserError, match=problem) as refusal:
        run("transcribe", "-m", toy_folder, *arguments, stdin=stdin)
    assert "\n" not in str(refusal.value)


def test_a_terminal_is_not_read_as_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(sewkit.UserError, match="pipe them in, or use --microphone"):
        next(live.raw_blocks())


def test_ctrl_c_while_waiting_for_sound_ends_the_blocks_and_not_the_program() -> None:
    def waiting() -> Iterator[np.ndarray]:
        yield np.zeros(1)
        os.kill(os.getpid(), signal.SIGINT)
        yield np.ones(1)

    before = signal.getsignal(signal.SIGINT)
    with live.Interruptible() as interruptible:
        assert len(list(interruptible(waiting()))) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_during_work_lets_it_end_and_a_second_one_does_not() -> None:
    with live.Interruptible() as interruptible:
        num_blocks = 0
        for _ in interruptible(np.zeros((9, 1))):
            os.kill(os.getpid(), signal.SIGINT)
            num_blocks += 1
        assert num_blocks == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class FakeSounddevice(SimpleNamespace):
    """As much of sounddevice as is used: its stream calls back at once for every block that there is."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__(samples=samples)

    def InputStream(self, samplerate, channels, dtype, blocksize, callback):
        assert (channels, dtype) == (1, "float32")
        if samplerate == 11_025:
            raise self.PortAudioError("Invalid sample rate")
        blocks = [self.samples[first : first + blocksize, None] for first in range(0, len(self.samples), blocksize)]

        class Recorder:
            def __enter__(self):
                for block in blocks:
                    callback(block, len(block), None, None)

            def __exit__(self, *exception):
                pass

        return Recorder()


def test_the_microphone_gives_all_that_piled_up_as_one_block(
    monkeypatch: pytest.MonkeyPatch, noise: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = noise.standard_normal(6 * RATE).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice(samples))
    np.testing.assert_array_equal(next(live.microphone_blocks(RATE)), samples)
    assert "6 s behind: this machine is slower than the sound" in capsys.readouterr().err
    with pytest.raises(sewkit.UserError, match=r"no microphone opens at 11025 Hz \(Invalid sample rate\)"):
        next(live.microphone_blocks(11_025))


def test_the_microphone_is_let_go_where_the_work_is_too_far_behind(
    monkeypatch: pytest.MonkeyPatch, noise: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = noise.standard_normal(7 * RATE).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice(samples))
    monkeypatch.setattr(live, "MOST_BEHIND_SECONDS", 6.5)
    np.testing.assert_array_equal(np.concatenate(list(live.microphone_blocks(RATE))), samples)
    assert "too far behind, no longer listening" in capsys.readouterr().err


def test_a_missing_sounddevice_or_portaudio_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(sewkit.UserError, match=r"pip install 'sewkit\[mic\]'"):
        next(live.microphone_blocks(RATE))

    def no_library(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(live, "import_module", no_library)
    with pytest.raises(sewkit.UserError, match="apt install libportaudio2"):
        next(live.microphone_blocks(RATE))


def test_on_a_terminal_a_partial_is_shown_in_place_and_a_final_becomes_a_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    one, two = Word("ONE", 0, 1, 1), Word("[TWO]", 1, 2, 1)
    with Live(console=console, auto_refresh=False, transient=True) as in_place:
        live._show_in_place(sewkit.Partial([one, two], 1), in_place)
        assert "ONE \x1b[2m[TWO]" in console.file.getvalue()
        live._show_in_place(sewkit.Final([one, two], 0.0, 2.0), in_place)
        live._show_in_place(sewkit.Final([], 2.0, 3.0), in_place)
    assert console.file.getvalue().count("ONE [TWO]\n") == 1


def test_subtitles_have_lines_as_long_and_as_many_as_asked_for(
    samples: np.ndarray, toy_folder: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "clip.wav", samples, RATE)
    options = ["--max-line-width", 12, "--max-line-count", 1, "-f", "srt", "-o", tmp_path]
    run("transcribe", tmp_path / "clip.wav", "-m", toy_folder, *options)
    for cue in (tmp_path / "clip.srt").read_text().strip().split("\n\n"):
        (line,) = cue.splitlines()[2:]
        assert len(line) <= 12 or " " not in line
