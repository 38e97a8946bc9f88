"""CTC prefix beam search with a word n-gram model and hotwords (Hannun et al. 2014, arXiv 1408.2873, algorithm 1).

A beam is a prefix: letters and gaps, without blanks or repeats. Two probabilities are kept of it: of all alignments
that end in silence, and of those that end in its last symbol. Prefixes that write the same text are one: a gap at the
start or after a gap changes nothing. score = acoustic + lm + hotwords, see `Hypothesis`.

Probabilities are products, not sums of logs, weighted with what the prefix's words are worth and scaled up in time: a
frame costs a prefix three multiplications, and a symbol more one. Mostly few beams live, and most frames are silence,
so this is plain Python: numpy would cost more in calls than in numbers.
"""

from __future__ import annotations

import itertools
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np

from sewkit.decode.fusion import FusionWeights, History, Spelling, WordScorer, ratio
from sewkit.decode.greedy import FrameLabels
from sewkit.decode.hotwords import Hotwords
from sewkit.decode.lm import LanguageModel, load_lm
from sewkit.decode.prefixes import Prefix, last_shared_gap
from sewkit.decode.symbols import GAP, SILENCE, Symbols
from sewkit.decode.trellis import best_path
from sewkit.errors import UserError
from sewkit.text import Alphabet

COMMIT_FRAMES = 500
"""So often, in frames of the recording, the words that all beams share are settled and their frames let go of."""
LONGEST_WINDOW = 3000
"""Frames that wait for all beams to share their words; after that the beams that disagree with the best are dropped."""
LEAST_SILENCE = 1e-100
"""Probability that silence has in every frame, so that no prefix dies of rounding."""
SMALL = 1e-80
"""Where the best prefix falls below it, all are scaled up."""
TINIEST = 5e-324
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
    beam_threshold: float = 12.0
    token_threshold: float = -6.0
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
        self.scorer = WordScorer(self.symbols, self.lm, weights or FusionWeights(), words, self.hotwords)

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


Grown = tuple[float, Prefix, int]
"""Weighted probability, a prefix, and the symbol that it grows by."""
_score = itemgetter(0)


class BeamState:
    """The beams of one recording. Pieces of any size give what all frames at once do."""

    def __init__(self, search: BeamSearch):
        self._symbols, self._pruning, self._scorer = search.symbols, search.pruning, search.scorer
        self._share = math.exp(-search.pruning.beam_threshold)
        root = Prefix(None, GAP, *search.scorer.start(), 1.0, 0.0)
        root.silent = 1.0
        self._beams = [root]
        self._scale = 0.0  # natural log of what all weighted probabilities are to be multiplied by
        self._in_silence = False  # whether no alignment ends in a symbol
        self._window: list[np.ndarray] = []  # log probabilities of the frames that are not settled
        self._num_frames = 0
        self._settled_text = ""
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
        (text,) = self._texts([self._best()])
        return text

    def finish(self, n: int = 1, *, num_with_labels: int = 1) -> list[Hypothesis]:
        """The n best texts of all frames fed, best first, the first `num_with_labels` of them with their labels."""
        found: dict[str, tuple[Hypothesis, Prefix]] = {}
        for beam, text in zip(self._beams, self._texts(self._beams), strict=True):
            ending = self._ending(beam, text)
            if text in found:  # spelled with other symbols, or with and without a last gap
                other, prefix = found[text]
                beam = beam if ending.acoustic > other.acoustic else prefix
                ending = replace(ending, acoustic=float(np.logaddexp(ending.acoustic, other.acoustic)))
            found[text] = ending, beam
        ranked = sorted(found.values(), key=lambda pair: (-pair[0].score, pair[0].text))[:n]
        return [
            replace(ending, labels=self._labels(beam)) if rank < num_with_labels else ending
            for rank, (ending, beam) in enumerate(ranked)
        ]

    def labels(self) -> FrameLabels:
        """Labels of all frames fed, within the best text."""
        return self.finish()[0].labels

    # ---- one frame

    def _advance(self, log_probs: np.ndarray) -> None:
        """Take (T, C) log probabilities."""
        probabilities = np.exp(log_probs)
        probabilities[:, SILENCE] = np.maximum(probabilities[:, SILENCE], LEAST_SILENCE)
        tried = log_probs >= np.minimum(log_probs.max(1), self._pruning.token_threshold)[:, None]
        tried[:, SILENCE] = False
        frames, columns = (places.tolist() for places in tried.nonzero())
        is_silent, silences = self._is_silent(log_probs).tolist(), log_probs[:, SILENCE].tolist()
        begin = 0
        for frame, row in enumerate(probabilities):
            end = bisect_right(frames, frame, begin)
            if is_silent[frame]:
                self._silence(silences[frame])
            else:
                self._step(row.tolist(), columns[begin:end])
            begin = end

    def _is_silent(self, log_probs: np.ndarray) -> np.ndarray:
        """(T, C) -> (T,) which frames are taken for certain silence."""
        return np.exp(log_probs[:, SILENCE]) >= self._pruning.silence_threshold

    def _silence(self, log_prob: float) -> None:
        """A frame that can't be anything but silence: the same for all prefixes, but that their symbols are over."""
        if not self._in_silence:
            for beam in self._beams:
                beam.silent, beam.voiced = beam.acoustic, 0.0
            self._in_silence = True
        self._scale += log_prob

    def _step(self, row: list[float], columns: list[int]) -> None:
        """One frame, (C,) probabilities, in which the symbols `columns` are tried."""
        self._in_silence = False
        before, best = self._stay(row)
        if columns:
            floor = max(best * self._share, TINIEST)
            best = self._keep([grown for column in columns for grown in self._grow(before, column, row[column], floor)])
        if best < SMALL:
            for beam in self._beams:
                beam.silent, beam.voiced = beam.silent / best, beam.voiced / best
            self._scale += math.log(best)

    def _stay(self, row: list[float]) -> tuple[list[tuple[Prefix, float, float]], float]:
        """Prefixes stay what they are: silence after all alignments, or the last symbol still.

        Gives the probabilities before the frame that a new symbol can follow on, any and the last one once more, which
        is a new one only after silence; and what the best prefix has after it.
        """
        before, best, silence = [], 0.0, row[SILENCE]
        for beam in self._beams:
            silent, voiced, column = beam.silent, beam.voiced, beam.column
            total = silent + voiced
            if column == GAP:  # another gap after a gap is the same text, whatever stood between them
                silent, voiced = 0.0, total
            before.append((beam, total, silent))
            beam.silent = left = total * silence
            beam.voiced = voiced = voiced * row[column]
            if left + voiced > best:
                best = left + voiced
        return before, best

    def _grow(
        self, before: list[tuple[Prefix, float, float]], column: int, probability: float, floor: float
    ) -> Iterator[Grown]:
        """Prefixes with a symbol more; those that are in the beam already get the probability at once."""
        for beam, total, silent in before:
            gain = (silent if beam.column == column else total) * probability
            child = beam.children.get(column)
            if child is not None:
                gain *= child.ratio
                if child.alive:
                    child.voiced += gain
                    continue
            elif column != GAP:
                gain *= beam.spelling[column][1]
            elif gain * beam.spelling.hope >= floor:
                gain *= self._completed(beam)[2]
            else:
                continue
            if gain >= floor:
                yield gain, beam, column

    def _completed(self, beam: Prefix) -> tuple[History, Spelling, float]:
        """History, spelling and ratio if a gap makes the word begun a complete one."""
        if beam.complete is None:
            history, spelling = self._scorer.finish(beam.history, beam.spelling, beam.word)
            worth = ratio(history.earned + spelling.ahead, beam.history.earned + beam.spelling.ahead)
            beam.complete = history, spelling, worth
        return beam.complete

    def _keep(self, grown: list[Grown]) -> float:
        """Choose the new beams; gives what the best one has."""
        scored: list[Grown] = [(beam.silent + beam.voiced, beam, SILENCE) for beam in self._beams]
        scored += grown
        best = max(scored, key=_score)[0]
        floor = max(best * self._share, TINIEST)
        chosen = [one for one in scored if one[0] >= floor]
        if len(chosen) > self._pruning.width:
            chosen.sort(key=_score, reverse=True)
            del chosen[self._pruning.width :]
        staying = [beam for _, beam, column in chosen if column == SILENCE]
        growing = [self._grown(beam, column, voiced) for voiced, beam, column in chosen if column != SILENCE]
        for beam in set(self._beams).difference(staying):
            beam.leave()
        self._beams = staying + growing
        return best

    def _grown(self, parent: Prefix, column: int, voiced: float) -> Prefix:
        """A prefix with a symbol more, new or back in the beam."""
        if (child := parent.children.get(column)) is not None:
            child.silent, child.voiced, child.alive = 0.0, voiced, True
        elif column == GAP:
            child = Prefix(parent, column, *self._completed(parent), voiced)
        else:
            spelling, worth = parent.spelling[column]
            child = Prefix(parent, column, parent.history, spelling, worth, voiced)
        parent.children[column] = child
        return child

    def _best(self) -> Prefix:
        return max(self._beams, key=lambda beam: beam.acoustic)

    # ---- settling, so that memory follows the text and not the sound

    def _settle(self) -> None:
        """Settle the words that all beams share, and forget the frames that said them."""
        if sum(map(len, self._window)) >= LONGEST_WINDOW:
            self._drop_dissenters()
        shared = last_shared_gap(self._beams)
        if shared.parent is not None or self._beams == [shared]:
            self._settle_words(shared)
            shared.parent = None

    def _drop_dissenters(self) -> None:
        """Keep only beams that share the first half of the best one's symbols, up to a gap."""
        lineage = list(self._best().lineage())
        half = next(prefix for prefix in lineage[len(lineage) // 2 :] if prefix.column == GAP)
        agreeing = [beam for beam in self._beams if half in beam.lineage()]
        for beam in set(self._beams).difference(agreeing):
            beam.leave()
        self._beams = agreeing

    def _settle_words(self, shared: Prefix) -> None:
        """Keep the labels that the best path has up to the gap after the shared words, or of all frames."""
        (self._settled_text,) = self._texts([shared])
        path, labels = self._best_path(self._best().columns())
        is_all = self._beams == [shared]
        end = len(path) if is_all else int(np.flatnonzero(path == len(shared.columns()) - 1)[-1]) + 1
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

    def _ending(self, beam: Prefix, text: str) -> Hypothesis:
        """The hypothesis if the recording ends with this beam."""
        history, worth = beam.history, beam.history.earned + beam.spelling.ahead
        if beam.column != GAP:
            history = self._completed(beam)[0]
        acoustic = math.log(beam.acoustic) + self._scale - worth
        lm = history.earned - history.hot + self._scorer.end(history.state)
        return Hypothesis(text, acoustic, lm, history.hot, NO_LABELS)

    def _texts(self, prefixes: list[Prefix]) -> list[str]:
        """What they write, from the start of the recording on."""
        root = next(prefix for prefix in prefixes[0].lineage() if prefix.parent is None)
        known = {root: f"{self._settled_text} "}
        for prefix in prefixes:
            new = list(itertools.takewhile(lambda one: one not in known, prefix.lineage()))
            for one in reversed(new):
                assert one.parent is not None
                known[one] = known[one.parent] + self._symbols.texts[one.column]
        return [" ".join(known[prefix].split()) for prefix in prefixes]

    def _labels(self, beam: Prefix) -> FrameLabels:
        """Labels of all frames, on the best path within the settled text and this beam's symbols."""
        return FrameLabels.concatenate([*self._settled_labels, self._best_path(beam.columns())[1]])
