"""Outputs that cannot be written are refused before any work, and looking leaves nothing behind."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sewkit.cli.main import app
from sewkit.errors import UserError
from sewkit.files import expect_file, expect_folder, write_whole


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "a_file"
    path.write_text("kept\n")
    return path


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    expect_folder(tmp_path / "new" / "newer")
    expect_folder(tmp_path)
    expect_file(tmp_path / "new" / "figures.json")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_folder_is_named(a_file: Path) -> None:
    with pytest.raises(UserError, match="a_file: expected a folder that can be written, found a file; name another"):
        expect_folder(a_file)
    with pytest.raises(UserError, match=r"a_file/x/y: expected a folder .*, found a file at .*/a_file; name another"):
        expect_folder(a_file / "x" / "y")
    with pytest.raises(UserError, match="a_file: expected a folder that can be written, found a file"):
        write_whole(a_file / "call.srt", "text")
    assert a_file.read_text() == "kept\n"


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a file that can be written, found a folder; name a file in it"):
        expect_file(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody can write")
def test_where_nothing_can_be_written_is_said_with_the_reason() -> None:
    with pytest.raises(
        UserError, match=r"/proc/x/y: expected a folder .* found that nothing can be in /proc \(No such"
    ):
        expect_folder(Path("/proc/x/y"))


@pytest.mark.parametrize(
    "arguments",
    [
        "transcribe talk.wav -m no-such-model -f srt -o a_file",
        "align talk.wav hello -m no-such-model -o a_file",
        "evaluate test.jsonl -m no-such-model -o a_file/report",
        "evaluate test.jsonl -m no-such-model --confusion a_file/c.png",
        "evaluate test.jsonl -m no-such-model --confusion .",
        "compare no-such-model no-such-model test.jsonl -o a_file",
        "sweep no-such-model test.jsonl -o a_file",
        "sweep no-such-model --time-only -o .",
        "bench speed no-such-model -o a_file",
        "bench stages no-such-model -o a_file",
        "bench throughput no-such-model --audio . -o a_file",
        "bench transcribe no-such-model --audio . -o .",
        "data import . -o a_file/train.jsonl",
        "bulk . a_file -m no-such-model",
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    arguments: str, a_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(a_file.parent)
    result = CliRunner().invoke(app, arguments.split())
    assert isinstance(result.exception, UserError), result.output
    assert " that can be written, found a " in str(result.exception)
    assert [path.name for path in a_file.parent.iterdir()] == ["a_file"]
