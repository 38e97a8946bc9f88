"""Watching a run for what goes wrong in pre-training and fine-tuning.

An alarm names the sign, its value, what is healthy, and what to do. The bands are wide: they are for runs that fail,
not for runs that could be better. What a healthy pre-training looks like: the contrastive loss falls slowly from
log(1 + negatives), 4.6 for 100 of them; gradient norms lie between 0.5 and 2; the perplexities rise after warm-up.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Values = dict[str, float]

LINES_KEPT = 20
LINES_NEEDED = 5
"""For a median."""


@dataclass(frozen=True)
class Rule:
    """One sign of trouble. It is looked for in lines that hold all that it needs, among them `Alarms.facts`."""

    name: str
    needs: tuple[str, ...]
    seen: Callable[[Values], bool]
    message: str


RULES = (
    Rule(
        "skipped",
        ("skipped",),
        lambda v: v["skipped"] > 0,
        "{skipped:.0f} updates were left out because loss or gradient were not finite (healthy: none): lower the "
        "learning rate or lengthen the warm-up; with bf16 try fp32; look for damaged recordings",
    ),
    Rule(
        "vanished gradient",
        ("grad_norm",),
        lambda v: v["grad_norm"] < 1e-3,
        "gradient norm {grad_norm:.2g} (healthy in pre-training: 0.5 to 2; alarm below 0.001): nothing is learned any "
        "more, which goes with collapse or saturated outputs; go back to an earlier state with a lower learning rate",
    ),
    Rule(
        "risen gradient",
        ("grad_norm", "usual_norm"),
        lambda v: v["grad_norm"] > 10 * v["usual_norm"],
        "gradient norm {grad_norm:.3g}, usually {usual_norm:.3g} (alarm above 10 times that): the run may diverge; "
        "lower the learning rate, lengthen the warm-up or set clip_norm",
    ),
    Rule(
        "few code words",
        ("code_perplexity", "num_entries", "warm"),
        lambda v: bool(v["warm"]) and v["code_perplexity"] < 0.05 * v["num_entries"],
        "code perplexity {code_perplexity:.3g} of {num_entries:.0f} code words (healthy after warm-up: above 5 %): the "
        "quantiser has collapsed to few of them; raise diversity_weight, lower the learning rate, or take larger "
        "updates",
    ),
    Rule(
        "no contrast",
        ("positive_similarity", "negative_similarity", "settled"),
        lambda v: bool(v["settled"]) and v["positive_similarity"] - v["negative_similarity"] < 0.02,
        "similarity to positives {positive_similarity:.3f}, to negatives {negative_similarity:.3f} (healthy soon after "
        "warm-up: more than 0.02 apart): targets cannot be told from negatives; lower the learning rate, check that "
        "clips are not silent, and take larger updates",
    ),
    Rule(
        "all alike",
        ("positive_similarity", "negative_similarity", "warm"),
        lambda v: bool(v["warm"]) and min(v["positive_similarity"], v["negative_similarity"]) > 0.9,
        "similarity to positives {positive_similarity:.3f} and to negatives {negative_similarity:.3f} (healthy after "
        "warm-up: not both above 0.9): all frames have become alike; start again with a lower learning rate or a "
        "longer warm-up",
    ),
    Rule(
        "too easy",
        ("contrastive",),
        lambda v: v["contrastive"] < 0.05,
        "contrastive loss {contrastive:.2g} (healthy: above 1, falling slowly): with so little to learn targets or "
        "negatives have collapsed; look at code_perplexity, lower the learning rate, and give clips more masked frames",
    ),
    Rule(
        "infeasible",
        ("infeasible",),
        lambda v: v["infeasible"] > 0,
        "{infeasible:.2%} of the rows have more letters than frames to spell them (healthy: none; they count 0): leave "
        "such clips out, correct their texts, or use a smaller squeeze factor",
    ),
    Rule(
        "only blanks",
        ("wrong_in_a_row",),
        lambda v: v["wrong_in_a_row"] >= 5,
        "no word right in {wrong_in_a_row:.0f} measurements in a row (healthy: under 100 % errors after the first "
        "ones): the head writes blanks only; raise the learning rate, train longer, or start from a pre-trained model",
    ),
    Rule(
        "waiting",
        ("usual_waiting",),
        lambda v: v["usual_waiting"] > 0.2,
        "{usual_waiting:.0%} of the time goes by waiting for data (healthy: under 5 %): use recordings at 16 kHz "
        "on a local disk, less augmentation, or more cores for each process",
    ),
)


class Alarms:
    """Tells each sign once while it lasts; it lasts through lines that do not hold what its rule needs.

    num_entries: code words of the quantiser, all groups together, where there is one.
    """

    def __init__(self, num_entries: int | None = None) -> None:
        self.num_entries = num_entries
        self.norms: deque[float] = deque(maxlen=LINES_KEPT)
        self.waiting: deque[float] = deque(maxlen=LINES_NEEDED)
        self.learning_rate = 0.0
        self.num_rising = 0
        self.num_risen = 0
        self.wrong_in_a_row = 0
        self.raised: set[str] = set()

    def check(self, values: Values) -> list[str]:
        """Messages of the signs that are new in this line."""
        known = {**values, **self.facts(values)}
        messages = []
        for rule in RULES:
            if not all(name in known for name in rule.needs):
                continue
            if not rule.seen(known):
                self.raised.discard(rule.name)
            elif rule.name not in self.raised:
                self.raised.add(rule.name)
                messages.append(rule.message.format(**known))
        return messages

    def facts(self, values: Values) -> Values:
        """What rules need to know beside this line.

        num_entries; usual_norm, the median of earlier lines; usual_waiting, that of the last ones; wrong_in_a_row,
        measurements without a right word; warm, whether the learning rate has stopped rising (before that, what looks
        like collapse is the beginning); settled, whether that was as many lines ago as it rose (a healthy run learns
        to tell its targets around then).
        """
        facts: Values = {}
        if self.num_entries:
            facts["num_entries"] = self.num_entries
        if len(self.norms) >= LINES_NEEDED:
            facts["usual_norm"] = median(self.norms)
        if "grad_norm" in values:
            self.norms.append(values["grad_norm"])
        if "waiting_for_data" in values:
            self.waiting.append(values["waiting_for_data"])
            if len(self.waiting) == LINES_NEEDED:
                facts["usual_waiting"] = median(self.waiting)
        if "learning_rate" in values:
            if self.num_risen or 0 < values["learning_rate"] <= self.learning_rate:
                self.num_risen += 1
            else:
                self.num_rising += 1
            self.learning_rate = values["learning_rate"]
        if rates := [value for name, value in values.items() if name.startswith("wer_")]:
            self.wrong_in_a_row = self.wrong_in_a_row + 1 if min(rates) >= 1 else 0
            facts["wrong_in_a_row"] = self.wrong_in_a_row
        return {**facts, "warm": self.num_risen > 0, "settled": self.num_risen > self.num_rising}
