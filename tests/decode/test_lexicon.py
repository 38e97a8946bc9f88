"""The trie of known words."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sewkit.decode.lexicon import OUTSIDE, ROOT, Lexicon

spellings = st.lists(st.lists(st.integers(2, 5), max_size=6), max_size=30)


@given(spellings=spellings, wanted=st.lists(st.integers(2, 5), max_size=6))
def test_the_trie_finds_what_a_search_through_the_list_finds(spellings: list[list[int]], wanted: list[int]) -> None:
    scores = np.arange(len(spellings), dtype=float)
    lexicon = Lexicon(spellings, scores, 6)
    node = ROOT
    for column in wanted:
        node = lexicon.child(node, column)
    beginning = [index for index, one in enumerate(spellings) if one[: len(wanted)] == wanted and one]
    if wanted:
        assert (node != OUTSIDE) == bool(beginning)
        exact = [index for index in beginning if spellings[index] == wanted]
        # Of words spelled alike the best one counts.
        assert (lexicon.word[node] if node != OUTSIDE else -1) == max(exact, default=-1)
        if beginning:
            assert lexicon.best[node] == max(beginning)
