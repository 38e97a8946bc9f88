"""Evaluations without a model."""

from pathlib import Path

from sewkit.evaluate.evaluation import Evaluation, Missing, Speed, System
from sewkit.evaluate.scores import Heard


def evaluation(
    pairs: list[tuple[str, str]],
    *,
    model: str = "toy",
    speakers: list[str] | None = None,
    seconds: list[float] | None = None,
    missing: list[int] | None = None,
    normalizer: str = "none",
) -> Evaluation:
    """Of (reference, hypothesis) pairs; rows in `missing` could not be read."""
    missing = missing or []
    heard = [
        Heard(
            row=row,
            name=str(Path("audio") / f"{row}.wav"),
            speaker=speakers[row] if speakers else "",
            seconds=seconds[row] if seconds else 2.0,
            reference=reference,
            hypothesis=hypothesis,
        )
        for row, (reference, hypothesis) in enumerate(pairs)
        if row not in missing
    ]
    return Evaluation(
        manifest="data/toy.jsonl",
        manifest_sha256="0" * 64,
        split=None,
        system=System(
            model=model, parameters=1000, compute="squeeze=2", decoding="greedy", device="cpu", dtype="float32"
        ),
        normalizer=normalizer,
        resampled=None,
        speed=Speed(
            seconds=1.0, reading_seconds=0.25, audio_seconds=sum(one.seconds for one in heard), peak_memory_mib=100.0
        ),
        heard=heard,
        missing=[Missing(row=row, name=f"{row}.wav", problem="no such file") for row in missing],
        environment={"cores": 2, "date": "2026-01-31"},
        command="sewkit evaluate toy.jsonl",
    )
