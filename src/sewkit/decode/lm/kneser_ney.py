"""Building n-gram models from text: interpolated modified Kneser-Ney (Chen and Goodman 1998, section 3 and eq. 26-27).

What KenLM's lmplz estimates, in numpy. Below the highest order an n-gram counts how many words stand before it, not how
often it occurs, unless it begins a sentence. Of each count a discount is taken, one each for counts 1, 2, and 3 or
more, and given to shorter contexts; what remains at the unigrams is shared evenly among all words, <unk> and </s>.

n-grams are numbered order by order: the id of w1..wn is the rank of (id of w1..wn-1, wn) among those that occur.
All is in memory, about 120 bytes a distinct n-gram at the peak; the text itself takes 4 bytes a running word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sewkit.decode.lm.arpa import Arpa, LanguageModelError, NGrams
from sewkit.decode.lm.ngram import BOS, EOS, UNK

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Of counts 1, 2, 3 and more, where a corpus is too small or too regular to estimate them; lmplz's."""
CHUNK_WORDS = 1 << 22
"""Running words that are counted at a time."""
LOG10_ZERO = -99.0
"""Customary in ARPA files; <s>, which is never predicted, has it."""


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one order. All arrays are (M,), sorted by `keys`."""

    keys: np.ndarray  # context id * V + word
    context: np.ndarray  # id of w1..wn-1 in the order below
    word: np.ndarray
    suffix: np.ndarray  # id of w2..wn in the order below
    begins: np.ndarray  # whether w1 is <s>
    raw: np.ndarray  # how often it occurs
    adjusted: np.ndarray  # what the estimate counts


def build_arpa(
    sentences: Iterable[str],
    order: int = 4,
    *,
    prune: Sequence[int] = (),
    on_progress: Callable[[float], None] | None = None,
) -> Arpa:
    """Estimate a model of `order` from sentences, words separated by white space.

    prune: n-grams that occur this often or less are dropped, one threshold an order, the last one holding for the
    orders beyond; (0, 0, 1) drops trigrams and longer ones that occur once. The unigrams are kept whatever it says.
    on_progress: called with the share done, 0 to 1, as it grows while counting.
    Raises LanguageModelError for an empty corpus, sentence marks in the text, or thresholds that fall.
    """
    thresholds = _thresholds(prune, order)
    vocabulary, tokens = _encode(sentences)
    counted = _count(tokens, len(vocabulary), order, on_progress or (lambda share: None))
    probs: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    for counts, threshold in zip(counted, thresholds, strict=True):
        keep = (counts.raw > threshold) | (len(probs) == 0)
        lower = probs[-1][counts.suffix] if probs else _uniform(counts)
        num_contexts = len(probs[-1]) if probs else 1
        prob, backoff = _estimate(counts, keep, lower, num_contexts)
        probs.append(prob)
        backoffs.append(backoff)
        kept.append(keep)
    return Arpa(vocabulary, _tables(counted, probs, backoffs[1:], kept))


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    if order < 1:
        raise LanguageModelError(f"order is {order}; expected 1 or more")
    given = [0, *prune[1:]] if prune else [0]
    thresholds = (given + [given[-1]] * order)[:order]
    # Otherwise an n-gram could stay whose context or suffix is gone.
    if thresholds != sorted(thresholds) or thresholds[0] < 0:
        raise LanguageModelError(f"pruning thresholds {', '.join(map(str, prune))} fall; a longer n-gram needs no less")
    return thresholds


# ---- counting ------------------------------------------------------------------------------------------------------


def _encode(sentences: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Text -> words in alphabetical order after the three marks, and all sentences as ids, each from <s> to </s>."""
    ids: dict[str, int] = {UNK: 0, BOS: 1, EOS: 2}
    pieces: list[np.ndarray] = []
    pending: list[int] = []
    for line, sentence in enumerate(sentences, start=1):
        words = sentence.split()
        if not words:
            continue
        if marks := {UNK, BOS, EOS}.intersection(words):
            raise LanguageModelError(f"line {line} of the text holds {min(marks)}, which the model adds itself")
        pending += [1, *[ids.setdefault(word, len(ids)) for word in words], 2]
        if len(pending) > CHUNK_WORDS:
            pieces.append(np.array(pending, np.int32))
            pending = []
    if len(ids) == 3:
        raise LanguageModelError("the text has no words")
    tokens = np.concatenate([*pieces, np.array(pending, np.int32)])
    words = list(ids)
    alphabetical = [0, 1, 2, *sorted(range(3, len(words)), key=words.__getitem__)]
    rank = np.empty(len(words), np.int32)
    rank[alphabetical] = np.arange(len(words), dtype=np.int32)
    return [words[index] for index in alphabetical], rank[tokens]


def _count(tokens: np.ndarray, size: int, order: int, on_progress: Callable[[float], None]) -> list[_Counts]:
    keys: list[np.ndarray] = [np.arange(size, dtype=np.int64)]
    raws: list[np.ndarray] = [np.bincount(tokens, minlength=size)]
    for length in range(2, order + 1):
        runs = []
        for done, chunk in _chunks(tokens):
            runs.append(np.unique(_keys(chunk, keys, size, length), return_counts=True))
            _merge_runs(runs)
            on_progress((length - 2 + done) / (order - 1))
        merged = _merge(runs)
        keys.append(merged[0])
        raws.append(merged[1])
    on_progress(1.0)
    return _described(keys, raws, size)


def _chunks(tokens: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Whole sentences, about `CHUNK_WORDS` words at a time, and the share of the text that ends with them."""
    starts = np.flatnonzero(tokens == 1)
    begin = 0
    while begin < len(tokens):
        after = np.searchsorted(starts, begin + CHUNK_WORDS)
        end = int(starts[after]) if after < len(starts) else len(tokens)
        yield end / len(tokens), tokens[begin:end]
        begin = end


def _keys(chunk: np.ndarray, keys: list[np.ndarray], size: int, length: int) -> np.ndarray:
    """The key of the n-gram of `length` that ends at each word of the chunk, where there is one in its sentence."""
    places = np.arange(len(chunk))
    inside = places - np.maximum.accumulate(np.where(chunk == 1, places, 0))  # words before it in its sentence
    ids = chunk.astype(np.int64)
    for shorter in range(2, length + 1):
        wanted = np.append(0, ids[:-1]) * size + chunk
        if shorter == length:
            return wanted[inside >= length - 1]
        ids = np.searchsorted(keys[shorter - 1], wanted)  # meaningless where a sentence is too young, and never used
    raise AssertionError("length is at least 2")


def _merge_runs(runs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Merge from the end while a run is no longer than the next: each key is merged a logarithmic number of times."""
    while len(runs) > 1 and len(runs[-2][0]) <= 2 * len(runs[-1][0]):
        last, before = runs.pop(), runs.pop()
        runs.append(_merge([before, last]))


def _merge(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(runs) == 1:
        return runs[0]
    merged, inverse = np.unique(np.concatenate([keys for keys, _ in runs]), return_inverse=True)
    weights = np.concatenate([counts for _, counts in runs])
    return merged, np.bincount(inverse, weights, len(merged)).astype(np.int64)


def _described(keys: list[np.ndarray], raws: list[np.ndarray], size: int) -> list[_Counts]:
    """Contexts, suffixes and adjusted counts of all orders."""
    orders: list[_Counts] = []
    for key, raw in zip(keys, raws, strict=True):
        context, word = np.divmod(key, size)
        if not orders:
            suffix, begins = np.zeros_like(key), word == 1
        else:
            below = orders[-1]
            # Without its first word, an n-gram is the suffix of its context followed by its last word.
            wanted = below.suffix[context] * size + word
            suffix = word if len(orders) == 1 else np.searchsorted(below.keys, wanted)
            begins = below.begins[context]
            orders[-1] = _adjusted(below, suffix)
        orders.append(_Counts(key, context, word, suffix, begins, raw, raw))
    first = orders[0]
    predicted = np.where(first.begins, 0, first.adjusted)  # <s> is never predicted
    orders[0] = _Counts(first.keys, first.context, first.word, first.suffix, first.begins, first.raw, predicted)
    return orders


def _adjusted(counts: _Counts, suffixes: np.ndarray) -> _Counts:
    """Count the words that stand before an n-gram, from the suffixes of the order above; before <s> nothing stands."""
    before = np.bincount(suffixes, minlength=len(counts.keys))
    adjusted = np.where(counts.begins, counts.raw, before)
    return _Counts(counts.keys, counts.context, counts.word, counts.suffix, counts.begins, counts.raw, adjusted)


# ---- estimating ----------------------------------------------------------------------------------------------------


def discounts(adjusted: np.ndarray) -> tuple[float, float, float]:
    """What is taken of counts 1, 2, and 3 or more (Chen and Goodman, eq. 26); the fallback where that has no sense."""
    ones, twos, threes, fours = (int((adjusted == count).sum()) for count in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return FALLBACK_DISCOUNTS
    share = ones / (ones + 2 * twos)
    found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
    # Outside of 0..count a discount would give negative probabilities, or none to shorter contexts.
    if not all(0 <= discount <= count for count, discount in enumerate(found, start=1)):
        return FALLBACK_DISCOUNTS
    return found


def _uniform(counts: _Counts) -> np.ndarray:
    """Every word alike, <s> aside."""
    return np.where(counts.begins, 0.0, 1.0 / (len(counts.keys) - 1))


def _estimate(counts: _Counts, keep: np.ndarray, lower: np.ndarray, num_contexts: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each n-gram given its context, and the back-off weight of each context.

    lower: (M,) the same words' probabilities in the context without its first word.
    """
    adjusted = counts.adjusted.astype(np.float64)
    taken = np.array([0.0, *discounts(counts.adjusted)])[np.minimum(counts.adjusted, 3)]
    total = np.bincount(counts.context, adjusted, num_contexts)
    # What pruned n-grams had goes to shorter contexts too, so that each context still sums to one.
    given = np.bincount(counts.context, np.where(keep, taken, adjusted), num_contexts)
    with np.errstate(invalid="ignore", divide="ignore"):
        backoff = np.where(total > 0, given / total, 1.0)
        prob = (adjusted - taken) / total[counts.context] + backoff[counts.context] * lower
    return prob, backoff


def _tables(
    counted: list[_Counts], probs: list[np.ndarray], backoffs: list[np.ndarray], kept: list[np.ndarray]
) -> list[NGrams]:
    """The arrays of an ARPA file; a context none of whose continuations was kept has the weight 1."""
    tables: list[NGrams] = []
    words: list[np.ndarray] = []
    for level, (counts, prob, keep) in enumerate(zip(counted, probs, kept, strict=True)):
        column = counts.word[:, None].astype(np.int32)
        words.append(column if level == 0 else np.hstack([words[-1][counts.context], column]))
        backoff = np.ones(len(prob))
        if level + 1 < len(counted):
            above = np.unique(counted[level + 1].context[kept[level + 1]])
            backoff[above] = backoffs[level][above]
        logs = [_log10(prob), _log10(backoff)]
        tables.append(NGrams(words[-1][keep], logs[0][keep], logs[1][keep]))
    return tables


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(values), LOG10_ZERO).astype(np.float32)
