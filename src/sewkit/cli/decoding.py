"""Options that say how logits become words: greedily, or by beam search with a language model and hotwords."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sewkit.recognizer import Recognizer

LanguageModelFile = Annotated[
    Path | None,
    typer.Option(
        "--lm",
        help="n-gram language model of words: ARPA file or KenLM binary; default: the one in the model's folder.",
    ),
]
Hotword = Annotated[
    list[str] | None,
    typer.Option(
        "--hotword", help="Word or phrase to favour, as WORD or WORD=WEIGHT (natural log, 5 if left out); repeatable."
    ),
]
Beam = Annotated[
    int | None, typer.Option(min=0, help="Beams that the search keeps, 32 by default; 0 decodes greedily, without any.")
]
Alpha = Annotated[float | None, typer.Option(min=0.0, help="Weight of the language model, in place of the stored one.")]
Beta = Annotated[float | None, typer.Option(help="Bonus a word (natural log), in place of the stored one.")]


def choose_decoder(
    asr: Recognizer,
    lm: Path | None,
    hotwords: list[str] | None,
    beam: int | None,
    alpha: float | None = None,
    beta: float | None = None,
) -> None:
    """Give a recognizer the decoder that these options ask for. Raises UserError."""
    from sewkit.decode import BeamSearch, FusionWeights, GreedySearch, Pruning
    from sewkit.decode.hotwords import parse_hotword
    from sewkit.errors import UserError

    if beam == 0:
        if lm or hotwords:
            raise UserError("--beam 0 decodes greedily, without --lm or --hotword; leave one of them out")
        asr.decoder = GreedySearch()
        return
    if (lm, hotwords, beam, alpha, beta) == (None,) * 5:
        return
    stored = asr.decoder.weights if isinstance(asr.decoder, BeamSearch) and lm is None else FusionWeights()
    weights = stored.replace(alpha=alpha, beta=beta)
    pruning = Pruning() if beam is None else Pruning(width=beam)
    words = dict(parse_hotword(hotword) for hotword in hotwords or [])
    asr.decoder = asr.beam_search(lm, weights=weights, hotwords=words, pruning=pruning)
    if asr.decoder.lm is None and (alpha, beta) != (None, None):
        raise UserError("--alpha and --beta weigh a language model; give one with --lm")
