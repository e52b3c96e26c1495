// The card of a word: its likeliest tokens, plain and with the strategy, and its signals. The dock: the answer's tokens as
// a strip with sparklines, and layers x heads as a grid whose cell chooses what the map shows.

import {$, make} from "./dom.js";
import {emit, on, point, state} from "./page.js";
import {chooseCell} from "./picture.js";

const MARKS = {hallucinated: "made up: not in the picture", supported: "in the picture", unknown: "not known whether in the picture"};
const narrow = matchMedia("(max-width: 860px)");  // there the card lies over the page: only a chosen word opens it
let token = 0, measure = "share", cell = ["", ""];  // cell: layer and head; "": all

function percent(value) {
  if (value == null) return "–";
  return value === 0 ? "0 %" : value < 0.001 ? "<0.1 %" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
}

function here() {
  const place = narrow.matches ? state.pinned : state.pointed || state.pinned, record = place && state.records[place.column];
  return record?.words ? {...place, record, said: record.words[place.word], gaze: state.gazes.get(record.id)} : null;
}

function bars(candidates) {
  const bar = (kind, value) => value == null ? null : make("i", {class: kind, "--value": value.toFixed(4)}, make("span", {}, percent(value)));
  const key = [": ", make("i", {class: "key plain"}), " plain ", make("i", {class: "key strategy"}), " with the strategy"];
  const paired = candidates.some(({strategy}) => strategy != null);
  return make("table", {}, make("caption", {}, "likeliest tokens", ...(paired ? key : [])),
    make("tbody", {}, ...candidates.map(({text, plain, strategy}) => make("tr", {},
      make("th", {scope: "row"}, text.trim() || JSON.stringify(text)), make("td", {}, bar("plain", plain), bar("strategy", strategy))))));
}

function card() {
  const now = here();
  $("card").hidden = !state.records.some(record => record.words?.length) || (narrow.matches && !now);
  if ($("card").hidden) return;
  if (!now) return $("card").replaceChildren(make("p", {class: "hint"},
    "Point at a word for what else the model could have said there; click keeps it, arrow keys walk."));
  const {record, said, gaze, column} = now, candidates = gaze?.candidates?.[said.tokens[Math.min(token, said.tokens.length - 1)]];
  const why = gaze?.error || (gaze === null ? "Reading the likeliest tokens …" : "No probabilities are stored with this answer.");
  const signals = state.about.signals.map(({name, label, hint, unit}) => make("div", {title: hint}, make("dt", {}, label),
    make("dd", {}, said[name] == null ? "–" : unit === "%" ? percent(said[name]) : `${said[name].toFixed(2)} ${unit}`)));
  const letGo = () => { state.pointed = null; point(null, true); };
  $("card").replaceChildren(
    make("div", {class: "word"}, make("h2", {}, said.text),
      make("p", {class: said.mark}, ["ABCD"[column], record.strategy, MARKS[said.mark]].filter(Boolean).join(" · ")),
      make("dl", {}, ...signals), tokens(said)),
    make("div", {class: "likely"}, candidates ? bars(candidates) : make("p", {class: "hint"}, why)),
    ...(state.pinned ? [make("button", {type: "button", class: "quiet", "aria-label": "Let go of the word", click: letGo}, "✕")] : []));
}

// Which token of a word of several the bars are about.
function tokens({tokens: all}) {
  if (all.length < 2) return null;
  const button = (_, i) => make("button", {type: "button", class: "chip", "aria-pressed": String(i === token),
    click: () => { token = i; card(); }}, String(i + 1));
  return make("p", {class: "row"}, "token ", ...all.map(button));
}

function dock() {
  const [record] = state.records, first = record?.words?.length ? {column: 0, word: -1, record, gaze: state.gazes.get(record.id)} : null;
  const now = here() || first;
  $("dock").hidden = !now;
  if (!now || !$("dock").open) return;
  $("strip").replaceChildren(...strip(now));
  if (now.gaze?.map) grid(now);
  else $("grid").replaceChildren();
}

function strip({record, word, column, gaze}) {
  const found = (gaze?.findings || []).filter(({kind}) => kind === "tokens");
  const rows = [...state.about.signals.map(({name, label, hint}) => ({label, hint, of: one => one[name]})),
    ...found.map(({name, values, hint}) => ({label: name, hint, of: one => values[one.tokens[0]]}))];
  return rows.map(({label, hint, of}) => make("div", {class: "spark", title: hint}, make("span", {}, label),
    sparkline(label, record.words.map(of), word, index => point({column, word: index}, true))));
}

function sparkline(label, values, word, pick) {
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const known = values.filter(value => value != null), low = Math.min(0, ...known), high = Math.max(...known, low + 1e-9);
  const step = 1000 / values.length, y = value => 26 - (24 * (value - low)) / (high - low);
  const points = values.map((value, i) => (value == null ? "" : `${((i + 0.5) * step).toFixed(1)},${y(value).toFixed(1)}`)).join(" ");
  const range = known.length ? `${Math.min(...known).toFixed(2)} to ${high.toFixed(2)}` : "not known";
  const drawing = svg("svg", {viewBox: "0 0 1000 28", preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${range}`},
    svg("rect", {x: word * step, y: 0, width: word < 0 ? 0 : step, height: 28}), svg("polyline", {points}));
  drawing.onclick = event => pick(Math.floor((event.offsetX / drawing.clientWidth) * values.length));
  return drawing;
}

function grid({gaze, word, record}) {
  const {layers, heads} = gaze, findings = gaze.findings.filter(({kind}) => kind === "heads");
  const found = findings.find(({name}) => name === measure);
  if (!found) measure = "share";
  const shares = word < 0 ? record.words.map((_, i) => gaze.share(i)) : [gaze.share(word)];
  const mean = Array.from(shares[0], (_, i) => shares.reduce((sum, one) => sum + one[i], 0) / shares.length);
  const list = (label, options, value, set) => make("label", {}, label, make("select", {change: event => set(event.target.value)},
    ...options.map(([name, said]) => make("option", {value: name, selected: name === value}, said))));
  const numbers = all => [["", "all"], ...all.map(number => [String(number), String(number)])];
  const names = [["share", "share of the picture"], ...findings.map(({name}) => [name, name])];
  $("grid").replaceChildren(squares(found ? found.values.flat(9) : mean, layers, heads), make("div", {},
    list("show ", names, measure, name => { measure = name; dock(); }),
    list("map of layer ", numbers(layers), cell[0], layer => choose([layer, cell[1]])),
    list("head ", numbers(heads), cell[1], head => choose([cell[0], head])),
    make("p", {class: "hint"}, found?.hint || "Rows are layers, columns are heads. Choose a cell, and the map shows that head alone.")));
}

// One square for each layer and head, darker for larger values; a click chooses it, or lets it go.
function squares(values, layers, heads) {
  const top = Math.max(...values.map(Math.abs), 1e-9), side = Math.max(6, Math.min(18, 300 / heads.length));
  const canvas = make("canvas", {width: heads.length * side, height: layers.length * side, role: "img",
    "aria-label": `${measure} by layer and head; the largest is ${top.toPrecision(2)}`});
  const brush = canvas.getContext("2d"), square = (i, j) => [j * side, i * side, side - 1, side - 1];
  brush.fillStyle = getComputedStyle($("grid")).color;
  values.forEach((value, i) => {
    brush.globalAlpha = 0.06 + (0.94 * Math.abs(value)) / top;
    brush.fillRect(...square(Math.floor(i / heads.length), i % heads.length));
  });
  if (cell.every(Boolean)) {
    Object.assign(brush, {globalAlpha: 1, lineWidth: 2, strokeStyle: getComputedStyle($("dock")).color});
    brush.strokeRect(...square(layers.indexOf(Number(cell[0])), heads.indexOf(Number(cell[1]))));
  }
  canvas.onclick = ({offsetX, offsetY}) => {
    const layer = layers[Math.floor((offsetY / canvas.clientHeight) * layers.length)];
    const next = [layer, heads[Math.floor((offsetX / canvas.clientWidth) * heads.length)]].map(String);
    choose(next.join() === cell.join() ? ["", ""] : next);
  };
  return canvas;
}

function choose(next) {
  cell = next;
  chooseCell(...cell);
  dock();
}

$("dock").ontoggle = dock;
on("running", () => { if (state.running) cell = ["", ""]; });
on("word", () => { token = 0; });
for (const name of ["answers", "word", "gaze"]) on(name, () => { card(); dock(); });
document.addEventListener("keydown", event => {
  if (event.key !== "Escape" || !state.pinned || document.querySelector("dialog[open], :popover-open")) return;
  state.pinned = null;
  emit("word");
});
