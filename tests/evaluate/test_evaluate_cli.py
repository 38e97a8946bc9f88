"""`sewkit evaluate` and `sewkit compare` on real clips: files, exit status, progress of what could not be read."""

import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import sewkit
from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint import convert
from sewkit.cli.main import app
from sewkit.data.manifest import Utterance
from sewkit.errors import UserError
from sewkit.evaluate import manifest as module
from sewkit.evaluate.manifest import evaluate_manifest

CLIPS = Path(__file__).parents[1] / "clips"


def run(*arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def rows() -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text().splitlines()[:12]]
    return [{**row, "audio": str(CLIPS / row["audio"]), "speaker": f"s{n % 3}"} for n, row in enumerate(found)]


def write_manifest(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "words.jsonl", rows())


def test_a_report_holds_what_the_recognizer_writes(manifest: Path, tmp_path: Path) -> None:
    out = run("evaluate", manifest, "-o", tmp_path / "report", "--worst", 2).stdout
    assert re.match(r"words: WER \d+\.\d% \[.*\] of 12 words in 12 utterances \(.*\), \d+ s of audio\n  CER ", out)
    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    asr = sewkit.load()
    texts = [asr.transcribe(row["audio"]).text for row in rows()]
    assert [one["hypothesis"] for one in facts["utterances"]] == texts
    assert [one["reference"] for one in facts["utterances"]] == [row["text"] for row in rows()]
    assert facts["wer"]["num_units"] == 12
    assert [one["name"] for one in facts["speakers"]] != []
    assert facts["system"]["compute"].startswith("squeeze=")
    assert facts["system"]["decoding"] == "greedy"
    assert facts["environment"]["torch"]
    assert 0 < facts["speed"]["reading_seconds"] < facts["speed"]["seconds"]
    assert facts["speed"]["peak_memory_mib"] is None or facts["speed"]["peak_memory_mib"] > 50
    assert facts["manifest_sha256"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert 1 <= html.count("<audio") <= 12
    assert "## Worst utterances" in (tmp_path / "report" / "report.md").read_text()


def test_json_is_one_document_a_manifest(manifest: Path, tmp_path: Path) -> None:
    other = shutil.copy(manifest, tmp_path / "again.jsonl")
    lines = run("evaluate", manifest, other, "--json", "-o", tmp_path / "out").stdout.splitlines()
    assert [json.loads(line)["manifest"] for line in lines] == [str(manifest), str(other)]
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/report.json")) == ["again", "words"]


def test_a_bad_recording_is_named_the_others_are_measured_and_the_status_is_1(tmp_path: Path) -> None:
    content = rows()[:4]
    content[1]["audio"] = str(tmp_path / "nowhere.wav")
    (tmp_path / "noise.wav").write_bytes(b"no sound at all, this is text")
    content[2]["audio"] = str(tmp_path / "noise.wav")
    manifest = write_manifest(tmp_path / "words.jsonl", content)
    result = run("evaluate", manifest, "-o", tmp_path, status=1)
    assert "2 of 4 recordings could not be read and are in no figure." in result.stdout
    assert [line.split(":")[:2] for line in result.stderr.splitlines()[:2]] == [
        ["sewkit", f" {tmp_path / 'nowhere.wav'}"],
        ["sewkit", f" {tmp_path / 'noise.wav'}"],
    ]
    facts = json.loads((tmp_path / "report.json").read_text())
    assert [one["row"] for one in facts["utterances"]] == [0, 3]
    assert [one["row"] for one in facts["missing"]] == [1, 2]
    asr = sewkit.load()
    assert [one["hypothesis"] for one in facts["utterances"]] == [
        asr.transcribe(content[row]["audio"]).text for row in (0, 3)
    ]


def test_a_bad_waveform_in_the_middle_does_not_shift_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that the recognizer refuses, after it could be read."""
    manifest = write_manifest(tmp_path / "words.jsonl", rows()[:4])
    read = module.load_utterance

    def spoiled(utterance: Utterance) -> np.ndarray:
        is_second = utterance.parts[0].audio == Path(rows()[1]["audio"])
        return np.full(16000, np.nan, np.float32) if is_second else read(utterance)

    monkeypatch.setattr(module, "load_utterance", spoiled)
    told: list[str] = []
    found = evaluate_manifest(sewkit.load(), manifest, on_error=lambda error: told.append(error.source))
    assert [one.row for one in found.heard] == [0, 2, 3]
    assert [one.reference for one in found.heard] == [rows()[number]["text"] for number in (0, 2, 3)]
    assert told == [rows()[1]["audio"]] == [found.missing[0].name]


def test_mistakes_are_one_line(manifest: Path, tmp_path: Path, toy_folder: Path) -> None:
    nothing = write_manifest(tmp_path / "nothing.jsonl", [{**row, "audio": "no.wav"} for row in rows()[:2]])
    silent = write_manifest(tmp_path / "silent.jsonl", [{**row, "text": ""} for row in rows()[:2]])
    report = tmp_path / "a" / "report.json"
    run("evaluate", manifest, "-o", report.parent)
    for arguments, message in (
        (("evaluate", nothing), "none of its 2 recordings could be read, the first"),
        (("evaluate", silent), "no word in the references after normalizer 'none'"),
        (("evaluate", manifest, "--normalizer", "x"), "expected none, librispeech, whisper-english"),
        (("evaluate", manifest, "--resample", "x"), "--resample x is not known; expected speakers or utterances"),
        (("compare", report, report, manifest), "are reports of their data: leave out manifests"),
        (("compare", report, toy_folder), "is a report, .*toy is none: give two reports, or two models and data"),
        (("compare", toy_folder / "x", report), "is a report, .*x is no file or folder: give two reports"),
        (("compare", toy_folder, toy_folder), "two models need data"),
        (("compare", tmp_path / "x.json", report), "x.json: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            run(*arguments)


def test_an_empty_reference_counts_insertions_and_is_said(tmp_path: Path) -> None:
    content = rows()[:3]
    content[0]["text"] = ""
    out = run("evaluate", write_manifest(tmp_path / "words.jsonl", content)).stdout
    assert re.search(r"1 references are empty: all \d words written there are insertions\.", out)


def test_two_reports_and_two_models_compare_alike(manifest: Path, tmp_path: Path, toy_folder: Path) -> None:
    run("evaluate", manifest, "-o", tmp_path / "a")
    run("evaluate", manifest, "-m", toy_folder, "-o", tmp_path / "b")
    reports = json.loads(run("compare", tmp_path / "a", tmp_path / "b" / "report.json", "--json").stdout)
    twice = [manifest, manifest]  # named again, it is one
    models = json.loads(run("compare", "sew-words", toy_folder, *twice, "--json", "-o", tmp_path / "c").stdout)
    assert reports["wer"] == models["wer"]
    assert reports["wins"] == models["wins"]
    assert reports["wer"]["difference"] > 0  # random weights are no better
    assert "<audio" in (tmp_path / "c" / "report.html").read_text()
    out = run("compare", tmp_path / "a", tmp_path / "b", "--normalizer", "whisper-english").stdout
    assert out.startswith("words: WER A ")
    assert "  A has the lower WER, in " in out


def test_waveforms_are_let_go_while_a_manifest_is_transcribed(
    tmp_path: Path, toy: sewkit.Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path / "long.jsonl", [{**rows()[0], "duration": 5.0}] * 60)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def load(utterance: Utterance) -> np.ndarray:
        nonlocal most
        waveform = np.zeros(5 * SAMPLE_RATE, np.float32)
        alive.append(weakref.ref(waveform))
        most = max(most, sum(one() is not None for one in alive))
        return waveform

    monkeypatch.setattr(module, "load_utterance", load)
    assert len(evaluate_manifest(toy, manifest).heard) == 60
    # the recognizer reads eight batches of ten seconds ahead, sixteen of these
    assert most <= 20


def test_a_stochastic_model_is_evaluated_and_compared_at_the_point_asked_for(manifest: Path, tmp_path: Path) -> None:
    sewkit.load().save(tmp_path / "model")
    fixed = tmp_path / "fixed"
    convert("sew-words", fixed, compute=sewkit.Compute(2))
    point = "squeeze=4,kv_pool=2"
    facts = json.loads(run("evaluate", manifest, "-m", tmp_path / "model", "--compute", point, "--json").stdout)
    assert facts["system"]["compute"] == point
    asr = sewkit.load(tmp_path / "model")
    heard = [one["hypothesis"] for one in facts["utterances"]]
    assert heard == [asr.transcribe(row["audio"], compute=point).text for row in rows()]
    same = [tmp_path / "model"] * 2
    compared = json.loads(run("compare", *same, manifest, "--compute-b", point, "--json").stdout)
    assert compared["b"]["compute"] == point
    assert compared["a"]["compute"] == str(asr.compute_options[-1])
    with pytest.raises(UserError, match="it runs at: squeeze=2 only"):
        run("evaluate", manifest, "-m", fixed, "--compute", point)
