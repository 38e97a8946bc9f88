// How much to compute: a slider over the model's operating points, and its curve of errors against time.

import { breakable } from "./transcript.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [320, 168];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 10, 14, 34];

function draw(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (rate) => `${(100 * rate).toFixed(100 * rate < 10 ? 1 : 0)} %`;

/** Milliseconds in few digits. */
export function withUnit(time) {
  if (time >= 1000) return `${Number((time / 1000).toPrecision(2))} s`;
  return `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}

function facts(point) {
  const parts = [];
  if (point.wer !== null) parts.push(`${percent(point.wer)} of words wrong`);
  if (point.ms_per_10s !== null) parts.push(`${withUnit(point.ms_per_10s)} for 10 s of sound`);
  return parts.join(", ");
}

export class ComputeControl {
  constructor(byId, onChange) {
    this.slider = byId("compute");
    this.automatic = byId("automatic");
    this.figure = byId("curve");
    this.chart = byId("chart");
    this.chosenPoint = byId("chosen-point");
    this.chosenFacts = byId("chosen-facts");
    this.hint = byId("compute-hint");
    this.onChange = onChange;
    this.all = this.points = [];
    this.running = null;
    this.slider.addEventListener("input", () => this.choose(Number(this.slider.value)));
    this.automatic.addEventListener("change", () => {
      this.follow();
      this.show();
      this.onChange(this.request);
    });
  }

  /** What to ask the server for; null leaves it to the server. */
  get request() {
    return this.automatic.checked || this.points.length < 2 ? null : this.points[this.slider.value].point;
  }

  choose(index) {
    this.automatic.checked = false;
    this.slider.value = index;
    this.show();
    this.onChange(this.request);
  }

  /** Take what the server says. */
  update({ points, compute, governed }) {
    const isNew = JSON.stringify(points) !== JSON.stringify(this.all);
    if (!isNew && compute === this.running && governed === this.governed) return;
    Object.assign(this, { all: points, running: compute, governed });
    const chosen = this.request;
    this.points = points.filter(({ used }) => used);
    const isChoice = this.points.length > 1;
    this.slider.max = Math.max(0, this.points.length - 1);
    this.slider.disabled = this.automatic.disabled = !isChoice;
    this.why = isChoice ? "" : points.length > 1 ? "This server runs everything at one point." : "This model has one operating point.";
    if (chosen !== null) this.slider.value = this.points.findIndex(({ point }) => point === chosen);
    this.follow();
    this.show();
  }

  follow() {
    if (this.automatic.checked) this.slider.value = Math.max(0, this.points.findIndex(({ point }) => point === this.running));
  }

  show() {
    const point = this.points[this.slider.value];
    if (!point) return;
    this.chosenPoint.textContent = breakable(point.point);
    this.chosenFacts.textContent = facts(point);
    this.slider.setAttribute("aria-valuetext", [point.point, facts(point)].filter(Boolean).join(", "));
    const drawn = this.all.filter((one) => one.ms_per_10s !== null);
    this.figure.hidden = drawn.length < 2;
    this.hint.textContent = this.why || (point.point === this.running ? "" : "The ring marks what the server runs now.");
    if (drawn.length >= 2) this.drawCurve(drawn, point);
  }

  drawCurve(drawn, chosen) {
    const hasErrors = drawn.every(({ wer }) => wer !== null);
    const across = scale(drawn.map((one) => Math.log(one.ms_per_10s)), LEFT, WIDTH - RIGHT);
    const x = (one) => across(Math.log(one.ms_per_10s));
    const [low, high] = hasErrors ? span(drawn) : [0, 1];
    const up = (rate) => HEIGHT - BOTTOM - ((rate - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
    const y = (one) => (hasErrors ? up(one.wer) : (HEIGHT - BOTTOM + TOP) / 2);
    const marks = [];
    for (const rate of hasErrors ? ticks(low, high) : []) {
      marks.push(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(rate), y2: up(rate) }));
      marks.push(draw("text", { x: LEFT - 6, y: up(rate) + 4, "text-anchor": "end" }, String(Math.round(1000 * rate) / 10)));
    }
    if (hasErrors) marks.push(draw("text", { x: LEFT, y: 4 }, "% of words wrong"));
    const ends = [drawn[0], drawn.at(-1)].map((one) => one.ms_per_10s);
    const [least, most] = [Math.min(...ends), Math.max(...ends)];
    marks.push(draw("text", { x: LEFT, y: HEIGHT - BOTTOM + 18 }, withUnit(least)));
    marks.push(draw("text", { x: WIDTH - RIGHT, y: HEIGHT - BOTTOM + 18, "text-anchor": "end" }, withUnit(most)));
    marks.push(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, "for 10 s of sound"));
    marks.push(draw("polyline", { class: "front", points: this.points.map((one) => `${x(one)},${y(one)}`).join(" ") }));
    for (const one of drawn) {
      if (hasErrors && one.used) marks.push(draw("line", { class: "range", x1: x(one), x2: x(one), y1: up(Math.max(low, one.wer_low)), y2: up(Math.min(high, one.wer_high)) }));
    }
    for (const one of drawn) {
      const classes = ["point", one.used ? "" : "aside", one === chosen ? "chosen" : ""].join(" ");
      const dot = draw("circle", { class: classes, cx: x(one), cy: y(one), r: one === chosen ? 6 : one.used ? 5 : 3 });
      dot.append(draw("title", {}, `${one.point}: ${facts(one)}`));
      if (one.used) dot.addEventListener("click", () => this.choose(this.points.indexOf(one)));
      marks.push(dot);
    }
    const running = drawn.find(({ point }) => point === this.running);
    if (running && running !== chosen) marks.push(draw("circle", { class: "running", cx: x(running), cy: y(running), r: 9 }));
    const title = this.chart.querySelector("title");
    title.textContent = `Errors against time, ${drawn.length} operating points; chosen: ${chosen.point}, ${facts(chosen)}`;
    this.chart.replaceChildren(title, ...marks);
  }
}

function scale(values, from, to) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const inset = 10;
  return (value) => (most === least ? (from + to) / 2 : from + inset + ((value - least) / (most - least)) * (to - from - 2 * inset));
}

const STEPS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];

/** From the step below the lowest rate to the one above the highest, so that two to four steps lie between. */
function span(points) {
  const rates = points.map(({ wer }) => wer);
  const [least, most] = [Math.min(...rates), Math.max(...rates)];
  const ends = (step) => [step * Math.floor(least / step), step * Math.ceil(most / step + 1e-6)];
  return ends(STEPS.find((step) => (ends(step)[1] - ends(step)[0]) / step < 4.5) ?? 1);
}

function ticks(low, high) {
  const step = STEPS.find((step) => (high - low) / step < 4.5) ?? 1;
  return Array.from({ length: Math.round((high - low) / step) + 1 }, (_, index) => low + index * step);
}
