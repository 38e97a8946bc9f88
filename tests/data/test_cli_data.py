"""`sewkit data`, as a user meets it."""

import json

from sounds import write_audio, write_set
from typer.testing import CliRunner

from sewkit.cli.main import app


def run(*arguments, status=0):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return result.stdout, result.stderr


def test_a_folder_is_imported_and_described(tmp_path):
    write_audio(tmp_path / "a.wav", 0.5)
    out, err = run("import", tmp_path, "-o", tmp_path / "m.jsonl", "--split", "dev")
    assert "1 rows" in out
    assert "as folder" in err
    (facts,) = json.loads(run("stats", tmp_path / "m.jsonl", "--json")[0]).items()
    seconds = [0.5] * 5
    assert facts == ("dev", {"rows": 1, "hours": 0.5 / 3600, "speakers": 0, "with_text": 0, "seconds": seconds})
    assert "dev" in run("stats", tmp_path / "m.jsonl")[0]


def test_a_bad_recording_is_named_and_the_exit_status_is_one(tmp_path):
    write_audio(tmp_path / "a.wav", 0.5)
    (tmp_path / "b.wav").write_bytes(b"")
    out, err = run("import", tmp_path, "-o", tmp_path / "m.jsonl", "--json", status=1)
    assert "b.wav: the file is empty" in err
    report = json.loads(out)
    assert report["num_rows"] == len(report["problems"]) == 1


def test_validate_says_what_is_left_out_and_why(tmp_path):
    path = write_set(tmp_path, [0.5, 0.5, 0.03])
    path.write_text(path.read_text().replace('"text": "ONE"', '"text": "EINS"', 1))
    out, _ = run("validate", path, "--model", "sew-tiny", status=1)
    assert out.startswith("2 of 3 rows can be used")
    assert "left out 1: too short" in out
    report = json.loads(run("validate", path, "--max-seconds", "0.4", "--json", status=1)[0])
    assert report["counts"] == {"too long": 2}
    run("validate", path, "--unlabelled", "--read-audio")
