"""The fixed parts of report.html: style and script. The page loads nothing and says so in its content policy."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src data:"

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --panel: #ffffff; --text: #1d1f23; --faint: #62666e; --line: #dcdad5; --bar: #cfe0f3;
  --sub: #fde7b8; --sub-text: #6b4700; --del: #fbd3d0; --del-text: #8a1c14; --ins: #d3e6fb; --ins-text: #0f4c8a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181c; --panel: #1e2126; --text: #e6e4df; --faint: #a0a4ac; --line: #363a42; --bar: #2b4563;
    --sub: #54400f; --sub-text: #ffdf97; --del: #5a211d; --del-text: #ffb9b3; --ins: #1b3d61; --ins-text: #b5d7ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; }
.faint { color: var(--faint); font-size: .9rem; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; }
.figure {
  flex: 1 1 14rem; background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
}
.figure b { display: block; font-size: 1.9rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
ul.notes { padding-left: 1.2rem; margin: 1rem 0; }
.scroll {
  overflow: auto; max-height: 34rem; width: fit-content; max-width: 100%; border: 1px solid var(--line);
  border-radius: .6rem;
}
table { border-collapse: collapse; min-width: 22rem; background: var(--panel); font-size: .92rem; }
th, td { text-align: left; padding: .35rem .75rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.share { background: linear-gradient(var(--bar), var(--bar)) no-repeat left / var(--share) 100%; }
thead th { position: sticky; top: 0; background: var(--panel); padding: 0; }
th button {
  font: inherit; font-weight: 600; color: inherit; background: none; border: 0; width: 100%; text-align: inherit;
  padding: .45rem .75rem; cursor: pointer; white-space: nowrap;
}
th button::after { content: " \\2195"; color: var(--faint); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
th button:focus-visible, audio:focus-visible { outline: 2px solid var(--ins-text); outline-offset: -2px; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.tables section { max-width: 100%; }
.legend > span { display: inline-flex; align-items: center; gap: .6rem; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center; margin: .6rem 0; }
.excerpt {
  background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem; margin: .7rem 0;
}
.excerpt header { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: center; }
.excerpt header div { flex: 1 1 18rem; overflow-wrap: anywhere; }
audio { height: 2.2rem; width: 20rem; max-width: 100%; }
.reading { display: flex; flex-wrap: wrap; gap: .35rem .3rem; margin-top: .6rem; align-items: flex-start; }
.pair { display: inline-flex; flex-direction: column; padding: 0 .3rem; border-radius: .3rem; line-height: 1.4; }
.pair span { min-height: 1.4em; white-space: pre; }
.pair small { font-size: .7rem; font-weight: 700; line-height: 1.2; padding: .25rem 0 .15rem; }
.labels { color: var(--faint); font-size: .8rem; min-width: 4rem; }
.labels span { line-height: 1.75; }
.equal { color: var(--faint); }
.substitution { background: var(--sub); color: var(--sub-text); }
.substitution .hyp { text-decoration: underline wavy; text-underline-offset: .15em; }
.deletion { background: var(--del); color: var(--del-text); }
.deletion .ref { text-decoration: line-through; }
.insertion { background: var(--ins); color: var(--ins-text); }
.insertion .hyp { text-decoration: underline; text-underline-offset: .15em; }
@media print { .scroll { max-height: none; } audio { display: none; } .excerpt { break-inside: avoid; } }
"""

SCRIPT = """
const collator = new Intl.Collator(undefined, {numeric: true});
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = {ascending: "descending", descending: "ascending"};
    const order = head.ariaSort ? other[head.ariaSort] : first, sign = order === "ascending" ? 1 : -1;
    for (const one of head.parentElement.cells) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const value = row => row.cells[column].dataset.value, number = head.classList.contains("number");
    const compare = (a, b) => number ? value(a) - value(b) : collator.compare(value(a), value(b));
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}
for (const player of document.querySelectorAll("audio")) {
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
  });
}
"""
