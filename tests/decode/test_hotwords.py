"""The automaton that watches for hotwords."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit.decode.hotwords import DEFAULT_WEIGHT, Hotwords, parse_hotword
from sewkit.decode.symbols import GAP, Symbols
from sewkit.errors import UserError
from sewkit.text import Alphabet

SYMBOLS = Symbols(Alphabet(("<pad>", "|", "A", "B")))


def earned(hotwords: Hotwords, text: str) -> float:
    state, total = hotwords.start, 0.0
    for word in text.split():
        for column in [*SYMBOLS.spell(word), GAP]:
            state = int(hotwords.following[state, column])
            total += hotwords.bonus[state]
    return total


@given(
    weights=st.dictionaries(st.text("AB ", min_size=1, max_size=5).filter(str.strip), st.integers(-3, 9), max_size=6),
    text=st.text("AB ", max_size=20),
)
def test_every_occurrence_of_every_hotword_as_whole_words_earns_its_weight(weights: dict[str, int], text: str) -> None:
    padded = " " + " ".join(text.split()) + " "
    expected = 0.0
    for hotword, weight in weights.items():
        pattern = " " + " ".join(hotword.split()) + " "
        expected += weight * sum(padded.startswith(pattern, place) for place in range(len(padded)))
    assert earned(Hotwords(weights, SYMBOLS), text) == pytest.approx(expected)


def test_a_hotword_begun_is_promised_its_share() -> None:
    hotwords = Hotwords({"ABBA": 5.0}, SYMBOLS)
    state, promises = hotwords.start, []
    for column in [*SYMBOLS.spell("ABBA"), GAP]:
        state = int(hotwords.following[state, column])
        promises.append(float(hotwords.promise[state]))
    assert promises == pytest.approx([1.0, 2.0, 3.0, 4.0, 0.0])
    assert hotwords.promise[hotwords.start] == 0
    assert (np.array(promises) <= 5.0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("SEWKIT", ("SEWKIT", DEFAULT_WEIGHT)), ("NEW  YORK=2.5", ("NEW YORK", 2.5)), ("NO=-3", ("NO", -3.0))],
)
def test_a_hotword_may_bring_its_weight(text: str, expected: tuple[str, float]) -> None:
    assert parse_hotword(text) == expected


@pytest.mark.parametrize("text", ["", "=3", "A=", "A=much", "A=nan"])
def test_a_malformed_hotword_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected WORD or WORD=WEIGHT"):
        parse_hotword(text)
