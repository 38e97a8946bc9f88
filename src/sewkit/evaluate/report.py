"""Evaluations as documents, and documents as files: report.json, report.md and report.html."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sewkit.evaluate.clips import Clips
from sewkit.evaluate.compare import Comparison, Difference
from sewkit.evaluate.document import Column, Document, Excerpt, Figure, Gallery, Reading, Table, to_markdown
from sewkit.evaluate.evaluation import Evaluation
from sewkit.evaluate.html import to_html
from sewkit.evaluate.normalize import find_normalizer
from sewkit.evaluate.scores import Group
from sewkit.evaluate.wer import ErrorRate
from sewkit.files import write_whole

WORST = 30
SAMPLE = 20
COUNT, RATE, SECONDS = ",d", ".1%", ",.1f"


def evaluation_document(
    evaluation: Evaluation, clips: Clips | None = None, *, worst: int = WORST, sample: int = SAMPLE
) -> Document:
    """`worst` utterances and a random `sample` of the others are shown; with `clips` they can be heard."""
    scores = evaluation.scores
    chosen = scores.worst(worst)
    others = sorted(set(range(len(scores))) - set(chosen))
    drawn = np.random.default_rng(0).permutation(others)[:sample].tolist()
    return Document(
        title=f"{evaluation.model} on {evaluation.title}",
        figures=_figures(evaluation),
        facts=facts_of(evaluation),
        notes=evaluation.notes(),
        tables=[*_rate_tables(evaluation), *_confusion_tables(evaluation), *_missing_tables(evaluation)],
        galleries=[
            Gallery(
                "Worst utterances",
                f"The {len(chosen)} with most word errors, after normalizer {evaluation.normalizer}.",
                [_excerpt(evaluation, index, clips) for index in chosen],
            ),
            Gallery(
                "Random sample",
                f"{len(drawn)} of the other {len(others)} utterances.",
                [_excerpt(evaluation, index, clips) for index in sorted(drawn)],
            ),
        ],
    )


def comparison_document(comparison: Comparison, clips: Clips | None = None, *, most: int = WORST // 2) -> Document:
    """The `most` utterances are shown in which either system gained most over the other."""
    a, b = comparison.a, comparison.b
    facts = [(name, value) for name, value in facts_of(a) if name in SHARED_FACTS or name.startswith("environment")]
    for label, one in (("A", a), ("B", b)):
        facts += [(f"{label}: {name}", value) for name, value in facts_of(one) if name in SYSTEM_FACTS]
    galleries = [
        Gallery(
            f"Where {label} is better",
            f"The {len(chosen)} utterances in which {label} has fewest word errors against the other.",
            [_pair_excerpt(comparison, index, clips) for index in chosen],
        )
        for label, sign in (("B", -1), ("A", 1))
        for chosen in [comparison.most_changed(sign, most)]
    ]
    return Document(
        title=f"{a.model} (A) and {b.model} (B) on {a.title}",
        figures=[
            _difference_figure("Word error rate", comparison.wer),
            _difference_figure("Character error rate", comparison.cer),
            _wins_figure(comparison),
        ],
        facts=facts,
        notes=comparison.notes(),
        tables=[_difference_table(comparison), _speaker_changes(comparison)],
        galleries=galleries,
    )


SHARED_FACTS = ("manifest", "manifest's SHA-256", "utterances", "sound", "normalizer", "command")
SYSTEM_FACTS = ("model", "operating point", "decoding", "device", "time")


def write_report(folder: Path, document: Document, facts: dict[str, Any]) -> list[Path]:
    """Write report.json, report.md and report.html, each whole or not at all. Raises UserError where that fails."""
    texts = {
        "report.json": json.dumps(facts, ensure_ascii=False, indent=1) + "\n",
        "report.md": to_markdown(document),
        "report.html": to_html(document),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def interval_text(rate: ErrorRate) -> str:
    """For people, such as "95 % interval 3.1% to 5.2% over speakers"."""
    return f"{rate.confidence:.0%} interval {rate.low:.1%} to {rate.high:.1%} over {rate.resampled}"


def _figures(evaluation: Evaluation) -> list[Figure]:
    speed = evaluation.speed
    memory = "" if speed.peak_memory_mib is None else f", peak memory {speed.peak_memory_mib:,.0f} MiB"
    return [
        Figure("Word error rate", f"{evaluation.wer.rate:.1%}", interval_text(evaluation.wer)),
        Figure("Character error rate", f"{evaluation.cer.rate:.1%}", interval_text(evaluation.cer)),
        Figure(
            "Times real time", f"{speed.times_real_time:,.1f}", f"real-time factor {speed.real_time_factor:.4f}{memory}"
        ),
    ]


def facts_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What the figures depend on."""
    system, speed, normalizer = evaluation.system, evaluation.speed, find_normalizer(evaluation.normalizer)
    environment = {f"environment: {name}": str(value) for name, value in evaluation.environment.items()}
    facts = {
        "model": f"{system.model}, {system.parameters / 1e6:.2f} M parameters",
        "operating point": system.compute,
        "decoding": system.decoding,
        "device": f"{system.device}, {system.dtype}",
        "manifest": evaluation.manifest + (f", split {evaluation.split}" if evaluation.split else ""),
        "manifest's SHA-256": evaluation.manifest_sha256,
        "utterances": f"{len(evaluation.heard):,} measured, {len(evaluation.missing):,} could not be read",
        "sound": f"{speed.audio_seconds:,.1f} s",
        "normalizer": f"{normalizer.name}: {normalizer.description}",
        "time": f"{speed.seconds:.2f} s from the first recording to the last transcript, of which "
        f"{speed.reading_seconds:.2f} s reading audio; loading the model not counted",
        "peak memory": "not known here"
        if speed.peak_memory_mib is None
        else f"{speed.peak_memory_mib:,.0f} MiB, of the whole process since it began",
        "peak GPU memory": "" if speed.peak_gpu_memory_mib is None else f"{speed.peak_gpu_memory_mib:,.0f} MiB",
        **environment,
        "command": evaluation.command,
    }
    return [(name, value) for name, value in facts.items() if value]


def _rate_tables(evaluation: Evaluation) -> list[Table]:
    scores = evaluation.scores
    columns = ("rate", "low", "high")
    rows = [
        (
            {"word": "words", "character": "characters"}[rate.unit],
            *(getattr(rate, name) for name in columns),
            rate.substitutions,
            rate.deletions,
            rate.insertions,
            rate.num_units,
        )
        for rate in evaluation.rates
    ]
    errors = Table(
        "Errors",
        (
            Column("of"),
            *(Column(name, RATE) for name in columns),
            *(Column(name, COUNT) for name in ("substitutions", "deletions", "insertions", "in references")),
        ),
        rows,
    )
    return [
        errors,
        _group_table("By speaker", "speaker", scores.by_speaker()),
        _group_table("By duration", "duration", scores.by_seconds()),
        _group_table("By length of the reference", "length", scores.by_words()),
    ]


def _group_table(title: str, key: str, groups: Sequence[Group]) -> Table:
    columns = (
        Column(key),
        Column("WER", RATE),
        Column("CER", RATE),
        Column("errors", COUNT),
        Column("words", COUNT),
        Column("utterances", COUNT),
        Column("seconds", SECONDS),
    )
    rows = [(g.name, g.wer, g.cer, g.errors, g.num_words, g.num_utterances, g.seconds) for g in groups]
    return Table(title, columns, rows)


def _confusion_tables(evaluation: Evaluation) -> list[Table]:
    found = evaluation.scores.confusions
    swapped = [(c.reference, c.hypothesis, c.count, c.of) for c in found if c.reference and c.hypothesis]
    dropped = [(c.reference, c.count, c.of) for c in found if c.hypothesis is None]
    added = [(c.hypothesis, c.count) for c in found if c.reference is None]
    times, of = Column("times", COUNT), Column("of", COUNT)
    return [
        Table("Most confused words", (Column("word"), Column("written"), times, of), _top(swapped), _OF),
        Table("Most deleted words", (Column("word"), times, of), _top(dropped), _OF),
        Table("Most inserted words", (Column("word"), times), _top(added)),
    ]


_OF = "“of” counts the word in all references."
MOST_CONFUSED = 200


def _top(rows: list[Any]) -> list[Any]:
    return rows[:MOST_CONFUSED]


def _missing_tables(evaluation: Evaluation) -> list[Table]:
    if not evaluation.missing:
        return []
    rows = [(one.row + 1, one.name, one.problem) for one in evaluation.missing]
    return [
        Table("Recordings that could not be read", (Column("row", COUNT), Column("recording"), Column("why")), rows)
    ]


def _excerpt(evaluation: Evaluation, index: int, clips: Clips | None) -> Excerpt:
    heard, counts = evaluation.scores.heard[index], evaluation.scores.words[index]
    words = f"{counts.errors} {'error' if counts.errors == 1 else 'errors'} in {counts.num_units} words"
    audio, note = clips.clip(heard.row) if clips else (None, "")
    detail = ", ".join(part for part in (heard.speaker, f"{heard.seconds:.1f} s", Path(heard.name).name) if part)
    return Excerpt(f"{heard.row + 1}. {words}", detail, [Reading("", evaluation.scores.edits(index))], audio, note)


def _difference_figure(name: str, found: Difference) -> Figure:
    detail = f"A {found.rate_a:.1%}, B {found.rate_b:.1%}; {found.confidence:.0%} interval {found.low:+.1%} to "
    return Figure(f"{name}, B less A", f"{found.difference:+.1%}", f"{detail}{found.high:+.1%} over {found.resampled}")


def _wins_figure(comparison: Comparison) -> Figure:
    a, b, ties = comparison.wins
    return Figure("Utterances with fewer word errors", f"{a} : {b}", f"A : B; as many errors in {ties}")


def _difference_table(comparison: Comparison) -> Table:
    signed = "+.1%"
    columns = (Column("of"), Column("A", RATE), Column("B", RATE), Column("B less A", signed), Column("low", signed))
    more = (Column("high", signed), Column("A better", RATE), Column("B better", RATE), Column("p", ".3g"))
    rows = [
        (f"{d.unit}s", d.rate_a, d.rate_b, d.difference, d.low, d.high, d.a_better, d.b_better, d.p_value)
        for d in (comparison.wer, comparison.cer)
    ]
    note = "“Better” is the share of resamples in which a system has fewer errors; p is two-sided."
    return Table("Difference", columns + more, rows, note)


def _speaker_changes(comparison: Comparison) -> Table:
    """The speakers whose word error rates differ most."""
    ours, theirs = ({g.name: g for g in one.scores.by_speaker()} for one in (comparison.a, comparison.b))
    rows = [(name, g.wer, theirs[name].wer, theirs[name].wer - g.wer, g.num_words) for name, g in ours.items()]
    columns = (Column("speaker"), Column("A", RATE), Column("B", RATE), Column("B less A", "+.1%"))
    return Table("WER by speaker", (*columns, Column("words", COUNT)), sorted(rows, key=lambda row: -abs(row[3])))


def _pair_excerpt(comparison: Comparison, index: int, clips: Clips | None) -> Excerpt:
    a, b = (one.scores for one in (comparison.a, comparison.b))
    excerpt = _excerpt(comparison.a, index, clips)
    title = f"{a.heard[index].row + 1}. {a.words[index].errors} errors by A, {b.words[index].errors} by B"
    readings = [Reading("A", a.edits(index)), Reading("B", b.edits(index))]
    return dataclasses.replace(excerpt, title=f"{title}, in {a.words[index].num_units} words", readings=readings)
