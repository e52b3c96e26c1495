// The card of a word: its likeliest tokens, plain and with the strategy, and its signals. The dock: the answer's tokens as
// a strip with sparklines, and layers x heads as a grid whose cell chooses what the map shows.

import {$, make} from "./dom.js";
import {chooseCell} from "./picture.js";
import {emit, on, point, state} from "./page.js";

const LETTERS = "ABCD";
let token = 0, measure = "share", cell = ["", ""];

const percent = value => value == null ? "–" : value === 0 ? "0 %" : value < 0.001 ? "<0.1 %" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
const narrow = matchMedia("(max-width: 860px)");  // there the card lies over the page: only a chosen word opens it
const here = () => {
  const place = narrow.matches ? state.pinned : state.pointed || state.pinned, record = place && state.records[place.column];
  return record?.words ? {...place, record, said: record.words[place.word], gaze: state.gazes.get(record.id)} : null;
};

function bars(candidates) {
  const bar = (kind, value) => value == null ? null : make("i", {class: kind, "--value": value.toFixed(4)}, make("span", {}, percent(value)));
  return make("table", {}, make("caption", {}, "likeliest tokens", ...(candidates.some(one => one.strategy != null) ? [": ", make("i", {class: "key plain"}), " plain ", make("i", {class: "key strategy"}), " with the strategy"] : [])),
    make("tbody", {}, ...candidates.map(({text, plain, strategy}) => make("tr", {}, make("th", {scope: "row"}, text.trim() || JSON.stringify(text)), make("td", {}, bar("plain", plain), bar("strategy", strategy))))));
}

function card() {
  const now = here();
  $("card").hidden = !state.records.some(record => record.words?.length) || (narrow.matches && !now);
  if ($("card").hidden) return;
  if (!now) return $("card").replaceChildren(make("p", {class: "hint"}, "Point at a word for what else the model could have said there; click keeps it, arrow keys walk."));
  const {record, said, gaze, column} = now;
  if (token >= said.tokens.length) token = 0;
  const signals = state.about.signals.map(signal => {
    const value = said[signal.name];
    return make("div", {title: signal.hint}, make("dt", {}, signal.label), make("dd", {}, value == null ? "–" : signal.unit === "%" ? percent(value) : `${value.toFixed(2)} ${signal.unit}`));
  });
  const marks = {hallucinated: "made up: not in the picture", supported: "in the picture", unknown: "not known whether in the picture"};
  const parts = said.tokens.length > 1 ? make("p", {class: "row"}, "token ", ...said.tokens.map((_, i) => make("button", {type: "button", class: "chip", "aria-pressed": i === token, click: () => { token = i; card(); }}, String(i + 1)))) : null;
  const candidates = gaze?.candidates?.[said.tokens[token]];
  $("card").replaceChildren(
    make("div", {class: "word"}, make("h2", {}, `${said.text}`), make("p", {class: said.mark}, `${LETTERS[column]} · ${record.strategy}${said.mark ? ` · ${marks[said.mark]}` : ""}`), make("dl", {}, ...signals), parts),
    make("div", {class: "likely"}, candidates ? bars(candidates) : make("p", {class: "hint"}, gaze?.error || (gaze === null ? "Reading the likeliest tokens …" : "No probabilities are stored with this answer."))),
    state.pinned ? make("button", {type: "button", class: "quiet", "aria-label": "Let go of the word", click: () => { state.pointed = null; point(null, true); }}, "✕") : null);
}

function dock() {
  const now = here() || (state.records[0]?.words?.length ? {column: 0, word: -1, record: state.records[0], gaze: state.gazes.get(state.records[0].id)} : null);
  $("dock").hidden = !now;
  if (!now || !$("dock").open) return;
  $("strip").replaceChildren(...strip(now));
  if (now.gaze?.map) grid(now);
  else $("grid").replaceChildren();
}

function strip({record, word, column, gaze}) {
  const width = 1000, step = width / record.words.length, svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const found = (gaze?.findings || []).filter(finding => finding.kind === "tokens").map(({name, values, hint}) => ({label: name, hint, of: one => values[one.tokens[0]]}));
  return [...state.about.signals.map(({name, label, hint}) => ({label, hint, of: one => one[name]})), ...found].map(({label, hint, of}) => {
    const values = record.words.map(of), known = values.filter(value => value != null);
    const low = Math.min(0, ...known), high = Math.max(...known, low + 1e-9), y = value => 26 - (24 * (value - low)) / (high - low);
    const drawing = svg("svg", {viewBox: `0 0 ${width} 28`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${known.length ? `${Math.min(...known).toFixed(2)} to ${Math.max(...known).toFixed(2)}` : "not known"}`});
    drawing.append(svg("rect", {x: word * step, y: 0, width: word < 0 ? 0 : step, height: 28, class: "now"}),
      svg("polyline", {points: values.map((value, i) => (value == null ? "" : `${((i + 0.5) * step).toFixed(1)},${y(value).toFixed(1)}`)).join(" ")}));
    drawing.onclick = event => point({column, word: Math.floor((event.offsetX / drawing.clientWidth) * values.length)}, true);
    return make("div", {class: "spark", title: hint}, make("span", {}, label), drawing);
  });
}

function grid({gaze, word, record}) {
  const {layers, heads} = gaze, findings = gaze.findings.filter(finding => finding.kind === "heads");
  const names = [["share", "share of the picture"], ...findings.map(({name}) => [name, name])];
  if (!names.some(([name]) => name === measure)) measure = "share";
  const found = findings.find(({name}) => name === measure);
  const values = found ? found.values.flat(9) : word < 0 ? mean(record.words.map((_, i) => gaze.share(i))) : [...gaze.share(word)];
  const top = Math.max(...values.map(Math.abs), 1e-9), side = Math.max(6, Math.min(18, 300 / heads.length));
  const at = cell => [layers.indexOf(Number(cell[0])), heads.indexOf(Number(cell[1]))];
  const canvas = make("canvas", {width: heads.length * side, height: layers.length * side, role: "img", "aria-label": `${measure} by layer and head; the largest is ${top.toPrecision(2)}`, click: event => {
    const next = [layers[Math.floor((event.offsetY / canvas.clientHeight) * layers.length)], heads[Math.floor((event.offsetX / canvas.clientWidth) * heads.length)]].map(String);
    choose(next.join() === cell.join() ? ["", ""] : next);
  }});
  const brush = canvas.getContext("2d"), square = (i, j) => [j * side, i * side, side - 1, side - 1];
  brush.fillStyle = getComputedStyle($("grid")).color;
  values.forEach((value, i) => { brush.globalAlpha = 0.06 + (0.94 * Math.abs(value)) / top; brush.fillRect(...square(Math.floor(i / heads.length), i % heads.length)); });
  if (cell.every(Boolean)) Object.assign(brush, {globalAlpha: 1, lineWidth: 2, strokeStyle: getComputedStyle($("dock")).color}).strokeRect(...square(...at(cell)));
  const list = (label, options, value, set) => make("label", {}, label, make("select", {change: event => set(event.target.value)}, ...options.map(([name, said]) => make("option", {value: name, selected: name === value}, said))));
  const numbers = all => [["", "all"], ...all.map(number => [String(number), String(number)])];
  $("grid").replaceChildren(canvas, make("div", {}, list("show ", names, measure, name => { measure = name; dock(); }), list("map of layer ", numbers(layers), cell[0], layer => choose([layer, cell[1]])),
    list("head ", numbers(heads), cell[1], head => choose([cell[0], head])), make("p", {class: "hint"}, found?.hint || "Rows are layers, columns are heads. Choose a cell, and the map shows that head alone.")));
}

const mean = rows => Array.from(rows[0] || [], (_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);

function choose(next) {
  cell = next;
  chooseCell(...cell);
  dock();
}

for (const name of ["answers", "word", "gaze"]) on(name, () => { card(); dock(); });
$("dock").ontoggle = dock;
on("running", () => { if (state.running) cell = ["", ""]; });
document.addEventListener("keydown", event => { if (event.key === "Escape" && state.pinned && !document.querySelector("dialog[open], :popover-open")) { state.pinned = null; emit("word"); } });
