// The columns: a head that is the picker of the strategy, its changed options, the answer, and what it comes to.

import {align, drawColumn, markWords, riskOf, twin, underline} from "./display/words.js";
import {$, make} from "./dom.js";
import {change, emit, on, point, stale, state} from "./page.js";
import {drawer, parse, pick, setSpec, write} from "./specs.js";

const LETTERS = "ABCD", WAITS = {waiting: "waiting", reading: "reading the picture"};
const sections = [], drawn = [];  // by column; what a section shows, so that only what changed is drawn again
let places = [];
export const aligned = () => places;

function remove(k) {
  const without = list => list.filter((_, i) => i !== k);
  state.records = without(state.records);
  if (state.answered) state.answered.strategies = without(state.answered.strategies);
  Object.assign(state, {pinned: null, pointed: null});
  change({strategies: without(state.setup.strategies)});
  emit("answers");
}

function head(k) {
  const spec = state.setup.strategies[k], parts = parse(spec), last = k === state.setup.strategies.length - 1;
  const button = (label, click, attributes = {}) => make("button", {type: "button", class: "quiet", click, ...attributes}, label);
  const list = place => event => pick(event.currentTarget, place);
  const chip = (label, said, click) => make("button", {type: "button", class: "chip", "aria-label": said, click}, `${label} ✕`);
  const drop = (part, option) => () => {
    part.options = part.options.filter(one => one !== option);
    setSpec(k, write(parts));
  };
  return make("header", {},
    make("div", {class: "row"}, make("b", {class: "letter"}, LETTERS[k]),
      make("button", {type: "button", class: "pick", "aria-haspopup": "listbox",
        "aria-label": `Strategy ${LETTERS[k]}: ${spec}; choose another`, click: list(name => setSpec(k, name))},
      make("span", {}, parts.map(part => part.name).join(" + ")), make("i", {}, " ▾")),
      button("+ combine", list(name => setSpec(k, `${spec}+${name}`)), {title: "use another strategy as well"}),
      button("options", () => drawer(k)),
      last && k < 3 ? button("+", list(name => setSpec(k + 1, name)), {"aria-label": "Add a column", title: "add a column"}) : null,
      k || !last ? button("✕", () => remove(k), {"aria-label": `Remove column ${LETTERS[k]}`}) : null),
    make("div", {class: "row options"}, ...parts.flatMap(part => [
      ...(parts.length > 1 ? [chip(part.name, `Without ${part.name}`, () => setSpec(k, write(parts.filter(one => one !== part))))] : []),
      ...part.options.map(option => chip(option, `${option}: back to the default`, drop(part, option)))])));
}

const OPEN = "what comes after was not written, so it cannot be called clean";
const ENDS = {cut: "cut at the limit of tokens", stopped: "stopped"};

// What an answer comes to: how it ended, objects or verdict, and cost.
export function foot(record) {
  const {objects, known, verdict, state: ended} = record, parts = [];
  const say = (text, kind = "", title = null) => parts.push(make("span", {class: kind, title}, text));
  if (ended === "failed") say(`No answer: ${record.error}`, "bad");
  if (ENDS[ended]) say(ENDS[ended], "warn", OPEN);
  if (verdict) judge(verdict, say);
  else if (objects && record.words) {
    const {made_up: made, unknown, named, missing} = objects, clean = ended === "done" && !unknown.length;
    if (known != null) {
      if (made.length) say(`${made.length} made up: ${made.join(", ")}`, "bad");
      else say(clean ? "nothing made up" : unknown.length ? "none known to be made up" : "nothing made up so far", clean ? "good" : "");
      say(`named ${named.length - made.length - unknown.length} of ${known}`, "", missing.length ? `not named: ${missing.join(", ")}` : null);
    }
    if (unknown.length) say(`${unknown.length} not known: ${unknown.join(", ")}`);
  }
  if (record.passes_per_token != null)
    say(`${record.passes_per_token.toFixed(1)} passes/token`, "", "forward passes of the model for a token, on average");
  if (record.seconds) say(`${record.seconds.toFixed(1)} s`, "small");
  return make("footer", {}, ...parts);
}

function judge({says, truth, right}, say) {
  const said = says || "neither yes nor no";
  if (right == null) say(says ? `says ${says}; truth not known` : said);
  else if (right) say(`${said}: right`, "good");
  else say(`${said}: wrong, it is ${truth}`, "bad");
}

function draw() {
  const {records, setup} = state, count = Math.max(setup.strategies.length, records.length);
  places = align(records);
  $("columns").style.setProperty("--rows", Math.max(1, ...places.flatMap(({rows}) => rows.map(row => row + 1))));
  while (sections.length > count) { sections.pop().remove(); drawn.pop(); }
  for (let k = 0; k < count; k++) {
    const record = records[k], spec = setup.strategies[k], last = k === count - 1;
    const section = sections[k] ??= $("columns").appendChild(make("section", {"aria-label": `Column ${LETTERS[k]}`},
      make("header"), make("div"), make("footer")));
    const key = JSON.stringify([record, places.map(({fork}) => fork), records.length]);
    if (drawn[k]?.spec !== spec || drawn[k].last !== last) section.children[0].replaceWith(head(k));
    if (drawn[k]?.key !== key) {
      section.children[1].replaceWith(answer(record, k));
      section.children[2].replaceWith(record ? foot(record) : make("footer"));
    }
    drawn[k] = {spec, last, key};
    section.classList.toggle("stale", Boolean(record) && stale(k));
  }
  note();
  risks();
}

function answer(record, k) {
  const body = make("div", {class: "answer", dir: "auto"});
  if (!record?.words?.length) body.append(record?.text || WAITS[record?.state] || "");
  else drawColumn(body, record, places[k], {
    hover: word => point({column: k, word}), leave: () => point(null), pin: word => point({column: k, word}, true),
  });
  return body;
}

// The prompt that the answers answer, and whether they are old.
function note() {
  const {records, answered} = state, old = records.map((_, k) => stale(k));
  const which = old.every(Boolean) ? "these answers are" : `${old.flatMap((one, k) => (one ? [LETTERS[k]] : [])).join(", ")} is`;
  $("note").replaceChildren(...(records.length ? [
    state.note ? `${state.note} · ` : "", make("q", {}, records[0].prompt || answered.prompt),
    old.some(Boolean) ? make("b", {}, ` The set-up has changed: ${which} old. Run answers anew.`) : "",
  ] : []));
}

function risks() {
  const signal = $("risk").value, all = state.records.flatMap(record => record.words || []);
  const top = Math.max(...all.map(word => word[signal] ?? 0), 1e-9);
  state.records.forEach((record, k) => {
    if (record.words) underline(sections[k], record.words.map(word => riskOf(word, signal, top)));
  });
}

function marks() {
  const place = state.pointed || state.pinned, {pinned} = state;
  state.records.forEach((record, k) => {
    if (!record.words || !sections[k]) return;
    const other = place && place.column !== k && places[place.column] ? twin(places, place.column, place.word, k) : -1;
    markWords(sections[k], "twin", other >= 0 ? [other] : []);
    markWords(sections[k], "pinned", pinned?.column === k ? [pinned.word] : []);
    sections[k].querySelectorAll(".mm-word").forEach((node, i) => {
      const chosen = pinned?.column === k && pinned.word === i, before = node.getAttribute("aria-selected") === "true";
      node.setAttribute("aria-selected", chosen);
      if (chosen && !before) requestAnimationFrame(() => node.scrollIntoView({block: "nearest", inline: "nearest"}));
    });
  });
}

// Lights words of every column, such as those that looked into a rectangle.
export const light = indices => sections.forEach((section, k) => markWords(section, "lit", indices[k] || []));

on("about", () => {
  const signals = state.about.signals.map(({name, label, hint}) => make("option", {value: name, title: hint}, label));
  $("risk").replaceChildren(make("option", {value: ""}, "nothing"), ...signals);
  $("risk").value = "entropy";
  $("risk").onchange = risks;
});
for (const name of ["setup", "answers", "running"]) on(name, draw);
for (const name of ["answers", "word"]) on(name, marks);
