// The words on the page: lines that are final, one that is still open, and what is known of the word pointed at.

const UNSURE = 0.85;
const DOUBTFUL = 0.5;
const PARAGRAPH_PAUSE = 2.5;
const PARAGRAPH_LETTERS = 160;

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** An operating point, which may be broken into lines behind its commas. */
export function breakable(point) {
  return point.replaceAll(",", ",\u200b");
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export class TranscriptView {
  /** @param box where lines go, @param detail where a word is described, @param spoken read out to screen readers */
  constructor(box, empty, detail, spoken, onChange) {
    Object.assign(this, { box, empty, detail, spoken, onChange });
    this.legend = [...detail.childNodes];
    this.last = this.open = null;
    box.addEventListener("pointerover", (event) => this.point(event.target.closest(".line .word")));
    box.addEventListener("pointerleave", () => this.point(null));
    box.addEventListener("click", (event) => this.point(event.target.closest(".line .word")));
    box.addEventListener("keydown", (event) => this.step(event));
    box.addEventListener("blur", () => this.point(null));
  }

  /** A heading for what comes: the name of a file, or "Microphone"; gives it, to be completed later. */
  begin(name) {
    this.empty.hidden = true;
    this.last = this.open = null;
    const heading = element("p", "source", element("b", "", name), element("span"));
    this.box.append(heading);
    this.scroll();
    return (facts) => heading.lastChild.replaceChildren(facts ? ` · ${facts}` : "");
  }

  partial({ words, stable }) {
    this.dropPartial();
    if (!words.length) return;
    const line = this.lineFor(words);
    this.open = element("span", "partial", ...spans(words, (index) => (index < stable ? "" : "open")));
    line.querySelector(".words").append(this.open);
    this.scroll();
  }

  final({ words, compute }) {
    this.dropPartial();
    if (!words.length) return;
    const line = this.lineFor(words, compute);
    line.querySelector(".words").append(...spans(words));
    line.querySelector("code").textContent = breakable(compute ?? "");
    this.last = { line, compute, end: words.at(-1).end };
    this.spoken.textContent = words.map(({ word }) => word).join(" ");
    this.scroll();
    this.onChange();
  }

  dropPartial() {
    this.open?.remove();
    this.open = null;
    const line = this.box.lastElementChild;
    if (line?.matches(".line") && !line.querySelector(".word")) line.remove();
  }

  clear() {
    this.point(null);
    this.last = this.open = null;
    this.box.replaceChildren(this.empty);
    this.empty.hidden = false;
    this.onChange();
  }

  /** Final lines as text. */
  get text() {
    const lines = [...this.box.querySelectorAll(".line .words")];
    return lines.map((line) => [...line.querySelectorAll(":scope > .word")].map((word) => word.textContent).join(" ")).filter(Boolean).join("\n");
  }

  /** The last line, if these words go on where it ends, at the same operating point; else a new one. */
  lineFor(words, compute = this.last?.compute) {
    const { last } = this;
    const goesOn = last && compute === last.compute && words[0].start - last.end < PARAGRAPH_PAUSE;
    if (goesOn && last.line.querySelector(".words").textContent.length < PARAGRAPH_LETTERS) return last.line;
    const line = element("div", "line", element("time", "", clock(words[0].start)), element("span", "words"), element("code"));
    this.box.append(line);
    return line;
  }

  scroll() {
    this.box.scrollTop = this.box.scrollHeight;
  }

  /** Say what is known of a word. */
  point(word) {
    this.box.querySelector(".current")?.classList.remove("current");
    if (!word) return this.detail.replaceChildren(...this.legend);
    word.classList.add("current");
    const { start, end, confidence } = word.about;
    const sure = `${Math.round(100 * confidence)} % sure`;
    this.detail.replaceChildren(element("b", "", word.about.word), ` · ${sure} · ${start.toFixed(2)} to ${end.toFixed(2)} s`);
  }

  step(event) {
    const direction = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const words = [...this.box.querySelectorAll(".line .word")];
    if (!direction || !words.length) return;
    event.preventDefault();
    const at = words.indexOf(this.box.querySelector(".current"));
    const next = words[at < 0 ? (direction > 0 ? 0 : words.length - 1) : Math.max(0, Math.min(words.length - 1, at + direction))];
    this.point(next);
    next.scrollIntoView({ block: "nearest" });
  }
}

function spans(words, classOf = () => "") {
  return words.flatMap((word, index) => {
    const sure = word.confidence < DOUBTFUL ? "doubtful" : word.confidence < UNSURE ? "unsure" : "";
    const span = element("span", ["word", sure, classOf(index)].filter(Boolean).join(" "), word.word);
    span.about = word;
    return [span, " "];
  });
}
