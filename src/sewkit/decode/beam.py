"""CTC prefix beam search with a word n-gram model and hotwords (Hannun et al. 2014, arXiv 1408.2873, algorithm 1).

A beam is a prefix: letters and gaps, without blanks or repeats. Two natural-log probabilities are kept of it, float64:
of all alignments that end in silence, and of those that end in its last symbol. Prefixes that write the same text are
one: a gap at the start or after a gap changes nothing. score = acoustic + lm + hotwords, see `Hypothesis`.

One frame of all beams is a few dozen numpy operations on arrays over beams (B) and over beams x symbols (B, K).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sewkit.decode.fusion import FusionWeights, WordScorer
from sewkit.decode.greedy import FrameLabels
from sewkit.decode.hotwords import Hotwords
from sewkit.decode.lexicon import ROOT
from sewkit.decode.lm import LanguageModel, load_lm
from sewkit.decode.prefixes import ROOT_PREFIX, PrefixTree
from sewkit.decode.symbols import GAP, SILENCE, Symbols
from sewkit.decode.trellis import best_path
from sewkit.errors import UserError
from sewkit.text import Alphabet

COMMIT_FRAMES = 500
"""So often, in frames of the recording, the words that all beams share are settled and their frames let go of."""
LONGEST_WINDOW = 3000
"""Frames that wait for all beams to share their words; after that the beams that disagree with the best are dropped."""
IMPOSSIBLE = -1e300
LEAST_LOG_PROB = -1e4
"""In alignment, which takes finite numbers only, of what has probability 0."""
NO_LABELS = FrameLabels(np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Pruning:
    """What the search leaves out; `Pruning.off(width)` leaves out nothing but beams beyond the width.

    width: beams that are kept. beam_threshold: beams this much (natural log) worse than the best are dropped.
    token_threshold: symbols whose natural-log probability in a frame is below this start no beam there, the best one
    excepted. silence_threshold: frames in which silence is at least this probable are taken for certain silence.
    """

    width: int = 32
    beam_threshold: float = 10.0
    token_threshold: float = -5.0
    silence_threshold: float = 0.9995

    def __post_init__(self) -> None:
        if self.width < 1 or not self.beam_threshold > 0:
            raise UserError(f"{self}; expected a width of 1 or more and a beam_threshold above 0")

    @classmethod
    def off(cls, width: int) -> Pruning:
        """Exact up to the width of the beam."""
        return cls(width, math.inf, -math.inf, math.inf)


@dataclass(frozen=True)
class Hypothesis:
    """A text that the recording may hold, with its scores as natural logs.

    acoustic: probability of its alignments. lm: alpha * ln P(words, end) + beta * words, penalties of unknown words
    included. hotwords: what hotwords earned. labels: best frame labels within it, for words with times; of the first
    hypothesis only, unless more were asked for.
    """

    text: str
    acoustic: float
    lm: float
    hotwords: float
    labels: FrameLabels

    @property
    def score(self) -> float:
        """What hypotheses are ranked by."""
        return self.acoustic + self.lm + self.hotwords


class BeamSearch:
    """Finds the best texts for logits. One object decodes any number of recordings.

    alphabet: the model's. lm: an ARPA file (also gzipped), a KenLM binary, or a loaded model. hotwords: words or
    phrases to favour, with natural-log weights or a default. words: the lexicon, by default the language model's
    words; others remain possible at a penalty, see `FusionWeights`.
    Raises UserError for a language model or hotwords that don't fit the alphabet.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        *,
        lm: LanguageModel | str | os.PathLike[str] | None = None,
        weights: FusionWeights | None = None,
        hotwords: Mapping[str, float] | Iterable[str] = (),
        words: Sequence[str] | None = None,
        pruning: Pruning | None = None,
    ):
        self.symbols = Symbols(alphabet)
        self.hotwords = Hotwords(hotwords, self.symbols)
        self.pruning = pruning or Pruning()
        self.lm = load_lm(lm) if isinstance(lm, str | os.PathLike) else lm
        if not self.symbols.has_gap and (self.lm or words or len(self.hotwords) > 1):
            raise UserError("this model's alphabet has no mark between words: no language model, no hotwords")
        self.words = words
        self.scorer = WordScorer(self.symbols, self.lm, weights or FusionWeights(), words, self.hotwords.words)

    def with_weights(self, weights: FusionWeights) -> BeamSearch:
        """The same search with other weights; the language model is shared."""
        other = object.__new__(BeamSearch)
        other.__dict__.update(self.__dict__)
        other.scorer = self.scorer.with_weights(weights)
        return other

    @property
    def weights(self) -> FusionWeights:
        """Of the language model."""
        return self.scorer.weights

    def decode(self, logits: np.ndarray, n: int = 1) -> list[Hypothesis]:
        """(T, V) logits of one recording -> its n best texts, best first; fewer if fewer are left in the beam."""
        state = self.start()
        state.feed(logits)
        return state.finish(n)

    def start(self) -> BeamState:
        """Begin a recording that comes in pieces."""
        return BeamState(self)


# Rows of the arrays that hold the beams, (rows, B).
# Floats: alignments that end in silence, and in the last symbol; what complete words have earned, and of it what
# hotwords have; what the word begun is given ahead; what completing it would earn, NaN until asked for.
_SILENT, _VOICED, _EARNED, _HOT, _AHEAD, _COMPLETE = range(6)
# Integers: prefix, last symbol, node and row of the lexicon, states of the hotwords and of the language model, and the
# latter's after the word begun.
_PREFIX, _LAST, _NODE, _ROW, _WATCH, _STATE, _AFTER = range(7)


class BeamState:
    """The beams of one recording. Pieces of any size give what all frames at once do."""

    def __init__(self, search: BeamSearch):
        self._symbols, self._pruning = search.symbols, search.pruning
        self._scorer, self._hotwords, self._watches = search.scorer, search.hotwords, len(search.hotwords) > 1
        # No symbol more can earn a beam more than this.
        self._headroom = self._scorer.best_word + float((self._hotwords.bonus + self._hotwords.promise).max())
        self._tree = PrefixTree(len(search.symbols))
        self._floats = np.array([0.0, -np.inf, 0.0, 0.0, 0.0, np.nan])[:, None]
        root = [ROOT_PREFIX, GAP, 0, self._scorer.lexicon.root_row, self._hotwords.start, self._scorer.start, 0]
        self._ints = np.array(root)[:, None]
        self._place = np.full(len(search.symbols), -1)  # scratch: place of a symbol among those tried in a frame
        self._after_silence = False  # whether no alignment ends in a symbol
        self._window: list[np.ndarray] = []  # log probabilities of the frames that are not settled
        self._num_frames = 0
        self._settled_columns: list[int] = []
        self._settled_labels: list[FrameLabels] = []

    # ---- what to do with it

    def feed(self, logits: np.ndarray) -> None:
        """Take the next (T, V) logits. Raises UserError for another V or numbers that are not finite."""
        log_probs = self._symbols.log_probs(logits)
        begin = 0
        while begin < len(log_probs):
            end = min(len(log_probs), begin + COMMIT_FRAMES - self._num_frames % COMMIT_FRAMES)
            self._advance(log_probs[begin:end])
            self._window.append(log_probs[begin:end].astype(np.float32))
            self._num_frames += end - begin
            if self._num_frames % COMMIT_FRAMES == 0:
                self._settle()
            begin = end

    def partial(self) -> str:
        """The best text so far; what follows may change its end."""
        best = self._totals().argmax()
        return self._symbols.write(self._settled_columns + self._tree.columns(int(self._ints[_PREFIX, best])))

    def finish(self, n: int = 1, *, num_with_labels: int = 1) -> list[Hypothesis]:
        """The n best texts of all frames fed, best first, the first `num_with_labels` of them with their labels."""
        merged: dict[str, Hypothesis] = {}
        columns_of: dict[str, list[int]] = {}
        for beam in range(self._floats.shape[1]):
            columns, ending = self._ending(beam)
            if (before := merged.get(ending.text)) is None or ending.acoustic > before.acoustic:
                columns_of[ending.text] = columns
            if before is not None:  # spelled with other symbols, or with and without a last gap
                acoustic = float(np.logaddexp(before.acoustic, ending.acoustic))
                ending = Hypothesis(ending.text, acoustic, ending.lm, ending.hotwords, ending.labels)
            merged[ending.text] = ending
        ranked = sorted(merged.values(), key=lambda one: (-one.score, one.text))[:n]
        return [
            Hypothesis(one.text, one.acoustic, one.lm, one.hotwords, self._labels(columns_of[one.text]))
            if rank < num_with_labels
            else one
            for rank, one in enumerate(ranked)
        ]

    def labels(self) -> FrameLabels:
        """Labels of all frames fed, within the best text."""
        return self.finish()[0].labels

    # ---- one frame

    def _advance(self, log_probs: np.ndarray) -> None:
        tried = log_probs >= np.minimum(log_probs.max(1), self._pruning.token_threshold)[:, None]
        tried[:, SILENCE] = False
        frames, columns = tried.nonzero()
        ends = frames.searchsorted(np.arange(len(log_probs)), side="right").tolist()
        begin = 0
        for frame, end, silent in zip(log_probs, ends, self._is_silent(log_probs).tolist(), strict=True):
            if silent:
                self._silence(frame[SILENCE])
            elif begin == end:
                self._stay(frame)
            else:
                self._step(frame, columns[begin:end])
            begin = end

    def _is_silent(self, log_probs: np.ndarray) -> np.ndarray:
        """(T, C) -> (T,) which frames are taken for certain silence."""
        return np.exp(log_probs[:, SILENCE]) >= self._pruning.silence_threshold

    def _silence(self, log_prob: float) -> None:
        """A frame that can't be anything but silence."""
        if not self._after_silence:
            self._floats[_SILENT] = np.logaddexp(self._floats[_SILENT], self._floats[_VOICED])
            self._floats[_VOICED] = -np.inf
            self._after_silence = True
        self._floats[_SILENT] += log_prob

    def _stay(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keep all prefixes as they are for one frame, (C,) log probabilities; gives their probabilities before it.

        Two rows (B,): of a new symbol, and of the last symbol once more, which is a new one only after silence.
        """
        self._after_silence = False
        silent, voiced = self._floats[_SILENT], self._floats[_VOICED]
        last = self._ints[_LAST]
        total = np.logaddexp(silent, voiced)
        after_gap = last == GAP
        # Another gap after a gap is the same text, whatever stood between them.
        repeated = np.where(after_gap, -np.inf, silent)
        self._floats[_VOICED] = np.where(after_gap, total, voiced) + frame[last]
        self._floats[_SILENT] = total + frame[SILENCE]
        return total, repeated

    def _step(self, frame: np.ndarray, columns: np.ndarray) -> None:
        """One frame in which the symbols `columns` (K,) are tried."""
        total, repeated = self._stay(frame)
        last = self._ints[_LAST]
        grown = np.where(columns == last[:, None], repeated[:, None], total[:, None]) + frame[columns]
        self._join_known(grown, columns)
        scores = self._totals()
        floor = max(_largest(scores) - self._pruning.beam_threshold, IMPOSSIBLE)
        base = grown + self._floats[_EARNED][:, None]
        if _largest(base) + self._headroom >= floor:
            grown_scores = self._grown_scores(base, columns, floor)
            self._keep(self._chosen(np.concatenate([scores, grown_scores.ravel()])), grown, columns)

    def _join_known(self, grown: np.ndarray, columns: np.ndarray) -> None:
        """Where a beam grows into one that is in the beam already, that one takes its probability."""
        parents = self._tree.places_of_parents(self._ints[_PREFIX])
        self._place[columns] = np.arange(len(columns))
        places = self._place[self._ints[_LAST]]
        self._place[columns] = -1
        (joined,) = ((parents >= 0) & (places >= 0)).nonzero()
        if joined.size:
            source = parents[joined], places[joined]
            voiced = self._floats[_VOICED]
            voiced[joined] = np.logaddexp(voiced[joined], grown[source])
            grown[source] = -np.inf

    def _grown_scores(self, base: np.ndarray, columns: np.ndarray, floor: float) -> np.ndarray:
        """(B, K) scores of all beams that a symbol was added to; those that can't reach `floor` may get -inf.

        base: without what the symbol earns.
        """
        nodes = self._scorer.lexicon.rows[self._ints[_ROW][:, None], columns]
        if self._watches:
            watch = self._hotwords.following[self._ints[_WATCH][:, None], columns]
            base = base + self._hotwords.promise[watch] + self._hotwords.bonus[watch]
        scores = base + self._scorer.promise[nodes]
        if columns[0] == GAP:
            scores[:, 0] = self._completed(base[:, 0], floor)
        return scores

    def _completed(self, scores: np.ndarray, floor: float) -> np.ndarray:
        """(B,) scores with the complete word added, -inf where the sum can't reach `floor`."""
        complete = self._floats[_COMPLETE]
        hopeful = scores + self._scorer.best_word >= floor
        for beam in (hopeful & np.isnan(complete)).nonzero()[0].tolist():
            complete[beam], self._ints[_AFTER, beam] = self._complete(beam)
        return np.where(hopeful, scores + complete, -np.inf)

    def _complete(self, beam: int) -> tuple[float, int]:
        """Score of the word that a beam has begun, complete, and the language model's state after it."""
        prefix, node, state = (int(self._ints[row, beam]) for row in (_PREFIX, _NODE, _STATE))
        return self._scorer.finish(state, node, lambda: self._symbols.write(self._tree.columns_since(prefix, GAP)))

    def _chosen(self, scores: np.ndarray) -> np.ndarray:
        """Places of the scores that stay in the beam, rising."""
        floor = max(_largest(scores) - self._pruning.beam_threshold, IMPOSSIBLE)
        (places,) = (scores >= floor).nonzero()
        if len(places) > (width := self._pruning.width):
            places = places[np.argpartition(-scores[places], width - 1)[:width]]
            places.sort()
        return places

    def _keep(self, chosen: np.ndarray, grown: np.ndarray, columns: np.ndarray) -> None:
        """Make the chosen places, first those of the beams as they are and then those of `grown`, the new beams."""
        num_beams = self._floats.shape[1]
        num_staying = int(chosen.searchsorted(num_beams))
        if num_staying == num_beams == len(chosen):
            return
        source, place = np.divmod(chosen[num_staying:] - num_beams, len(columns))
        kept = np.concatenate([chosen[:num_staying], source])
        self._floats, self._ints = self._floats[:, kept], self._ints[:, kept]
        if len(source):
            self._grow(num_staying, grown[source, place], columns[place])

    def _grow(self, first: int, voiced: np.ndarray, columns: np.ndarray) -> None:
        """Turn the beams from `first` on, copies of those they grow from, into these with a symbol more."""
        floats, ints = self._floats[:, first:], self._ints[:, first:]  # views
        nodes = self._scorer.lexicon.rows[ints[_ROW], columns]
        (at_gap,) = (columns == GAP).nonzero()
        if at_gap.size:
            floats[_EARNED, at_gap] += floats[_COMPLETE, at_gap]
            ints[_STATE, at_gap] = ints[_AFTER, at_gap]
            nodes[at_gap] = ROOT
        floats[_SILENT], floats[_VOICED], floats[_COMPLETE] = -np.inf, voiced, np.nan
        floats[_AHEAD] = self._scorer.promise[nodes]
        if self._watches:
            self._watch(floats, ints, columns)
        row, child = self._scorer.lexicon.row, self._tree.child
        ints[_LAST], ints[_NODE] = columns, nodes
        ints[_ROW] = [row(node) for node in nodes.tolist()]
        ints[_PREFIX] = [child(*grown) for grown in zip(ints[_PREFIX].tolist(), columns.tolist(), strict=True)]

    def _watch(self, floats: np.ndarray, ints: np.ndarray, columns: np.ndarray) -> None:
        """What hotwords give new beams."""
        watch = self._hotwords.following[ints[_WATCH], columns]
        floats[[_EARNED, _HOT]] += self._hotwords.bonus[watch]
        floats[_AHEAD] += self._hotwords.promise[watch]
        ints[_WATCH] = watch

    def _totals(self) -> np.ndarray:
        """(B,) scores of the beams as they stand, words begun included."""
        floats = self._floats
        return np.logaddexp(floats[_SILENT], floats[_VOICED]) + floats[_EARNED] + floats[_AHEAD]

    # ---- settling, so that memory follows the text and not the sound

    def _settle(self) -> None:
        """Settle the words that all beams share, and forget the frames that said them."""
        if sum(map(len, self._window)) >= LONGEST_WINDOW:
            self._drop_dissenters()
        prefixes = self._ints[_PREFIX].tolist()
        spelled = [self._tree.columns(prefix) for prefix in prefixes]
        shared = _shared_words(spelled)
        if shared or not any(spelled):
            is_all = all(len(one) == len(shared) for one in spelled)
            self._settle_words(shared, spelled[int(self._totals().argmax())], is_all)
        self._tree, self._ints[_PREFIX] = self._tree.rerooted(prefixes, len(shared))

    def _drop_dissenters(self) -> None:
        """Keep only beams that share the first half of the best one's symbols, up to a gap."""
        spelled = [self._tree.columns(prefix) for prefix in self._ints[_PREFIX].tolist()]
        best = spelled[int(self._totals().argmax())]
        half = _up_to_gap(best[: len(best) // 2])
        agreeing = [beam for beam, one in enumerate(spelled) if one[: len(half)] == half]
        self._floats, self._ints = self._floats[:, agreeing], self._ints[:, agreeing]

    def _settle_words(self, shared: list[int], best: list[int], is_all: bool) -> None:
        """Keep the labels that the best path has up to the gap after the shared words, or of all frames."""
        path, labels = self._best_path(best)
        end = len(path) if is_all else int(np.flatnonzero(path == len(shared) - 1)[-1]) + 1
        self._settled_columns += shared
        self._settled_labels.append(FrameLabels(*(part[:end] for part in labels)))
        self._window = [np.concatenate(self._window)[end:]]

    def _best_path(self, columns: list[int]) -> tuple[np.ndarray, FrameLabels]:
        """For the frames that are not settled, which of these symbols each says (-1: silence), and their labels.

        The search sums over all alignments of a text; times and confidences come from the most probable one. A gap
        that the text does not have, before, after or in its words, is silence there.
        """
        log_probs = np.concatenate([np.zeros((0, len(self._symbols)), np.float32), *self._window])
        path = np.full(len(log_probs), -1, np.int32)
        if columns:
            # Of a run of certain silence the first frame stands for all: most frames are such.
            silent = self._is_silent(log_probs)
            (telling,) = np.append(True, ~(silent[1:] & silent[:-1])).nonzero()
            scores = np.maximum(log_probs[telling], LEAST_LOG_PROB)
            scores[:, SILENCE] = scores[:, [SILENCE, GAP]].max(1)
            path[telling] = best_path(scores, np.array(columns), blank=SILENCE)
        said = np.array([*columns, SILENCE])[path]
        probabilities = np.exp(np.take_along_axis(log_probs, said[:, None], 1)[:, 0])
        return path, FrameLabels(self._symbols.label_ids[said], probabilities)

    # ---- the end

    def _ending(self, beam: int) -> tuple[list[int], Hypothesis]:
        """The symbols that are not settled, and the hypothesis, if the recording ends with this beam."""
        hot = self._floats[_HOT, beam]
        lm = self._floats[_EARNED, beam] - hot
        state = int(self._ints[_STATE, beam])
        if self._ints[_LAST, beam] != GAP:
            complete, state = self._complete(beam)
            lm, hot = lm + complete, hot + self._hotwords.bonus[self._hotwords.following[self._ints[_WATCH, beam], GAP]]
        columns = self._tree.columns(int(self._ints[_PREFIX, beam]))
        acoustic = np.logaddexp(self._floats[_SILENT, beam], self._floats[_VOICED, beam])
        text = self._symbols.write(self._settled_columns + columns)
        lm += self._scorer.end(state)
        return columns, Hypothesis(text, float(acoustic), float(lm), float(hot), NO_LABELS)

    def _labels(self, columns: list[int]) -> FrameLabels:
        """Labels of all frames, on the best path within the settled text and these symbols."""
        return FrameLabels.concatenate([*self._settled_labels, self._best_path(columns)[1]])


def _largest(values: np.ndarray) -> float:
    """On arrays this small, argmax and an access take half the time of max."""
    return values.item(values.argmax())


def _shared_words(spelled: list[list[int]]) -> list[int]:
    """What all begin with, up to a gap."""
    shared = spelled[0]
    for one in spelled:
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(shared, one, strict=False))
        shared = [column for column, _ in same]
    return _up_to_gap(shared)


def _up_to_gap(columns: list[int]) -> list[int]:
    """Whole words only."""
    end = len(columns)
    while end and columns[end - 1] != GAP:
        end -= 1
    return columns[:end]
