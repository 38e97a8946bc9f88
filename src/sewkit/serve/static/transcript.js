// The words on the page: lines that are final, one that is still open, and what is known of the word pointed at.

const UNSURE = 0.85;
const DOUBTFUL = 0.5;

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
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
    this.open = null;
    this.lastPoint = null;
    box.addEventListener("pointerover", (event) => this.point(event.target.closest(".line .word")));
    box.addEventListener("pointerleave", () => this.point(null));
    box.addEventListener("click", (event) => this.point(event.target.closest(".line .word")));
    box.addEventListener("keydown", (event) => this.step(event));
    box.addEventListener("blur", () => this.point(null));
  }

  /** A heading for what comes: the name of a file, or "Microphone"; gives it, to be completed later. */
  begin(name) {
    this.empty.hidden = true;
    this.lastPoint = null;
    const heading = element("p", "source", element("b", "", name), element("span"));
    this.box.append(heading);
    this.scroll();
    return (facts) => heading.lastChild.replaceChildren(facts ? ` · ${facts}` : "");
  }

  partial({ words, stable }) {
    if (!words.length) return this.dropPartial();
    this.open ??= this.line("line partial");
    this.fill(this.open, words, (index) => (index < stable ? "" : "open"));
    this.scroll();
  }

  final({ words, compute }) {
    this.dropPartial();
    if (!words.length) return;
    const line = this.line("line");
    this.fill(line, words, () => "");
    line.querySelector("code").textContent = compute ?? "";
    line.classList.toggle("changed", Boolean(compute) && compute !== this.lastPoint);
    this.lastPoint = compute;
    this.spoken.textContent = words.map(({ word }) => word).join(" ");
    this.scroll();
    this.onChange();
  }

  dropPartial() {
    this.open?.remove();
    this.open = null;
  }

  clear() {
    this.point(null);
    this.open = null;
    this.box.replaceChildren(this.empty);
    this.empty.hidden = false;
    this.onChange();
  }

  /** Final lines as text. */
  get text() {
    return [...this.box.querySelectorAll(".line:not(.partial) .words")].map((words) => words.textContent.trim()).join("\n");
  }

  line(className) {
    const line = element("div", className, element("time"), element("span", "words"), element("code"));
    this.box.append(line);
    return line;
  }

  fill(line, words, classOf) {
    line.querySelector("time").textContent = clock(words[0].start);
    const spans = words.flatMap((word, index) => {
      const sure = word.confidence < DOUBTFUL ? "doubtful" : word.confidence < UNSURE ? "unsure" : "";
      const span = element("span", `word ${sure} ${classOf(index)}`, word.word);
      span.about = word;
      return [span, " "];
    });
    line.querySelector(".words").replaceChildren(...spans);
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
