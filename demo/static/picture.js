// The picture, which is where heat is drawn: the word under pointer or focus on one scale for all columns, the difference
// of two columns, gaze shift, logit lens, findings of strategies, and a rectangle that lights the words that looked there.

import {call} from "./api.js";
import {aligned, light} from "./columns.js";
import {cellAt, clearHeat, drawHeat, inside, peak, unpack} from "./display/gaze.js";
import {twin} from "./display/words.js";
import {$, make, rove} from "./dom.js";
import {emit, on, otherPicture, problem, state} from "./page.js";

const LETTERS = "ABCD", SOURCES = [["attention", "attention"], ["shift", "gaze shift"], ["lens", "logit lens"]];
const chosen = {whose: "0", source: "attention", cell: null};  // whose: a column, or "d1" for A−B
let shift = null, lens = null;  // what the server has told about the question, and about the words of patches
let asking = 0, reading = false;  // the last question; whether patches are being read

const percent = value => `${(100 * value).toPrecision(2)} %`;
const place = () => state.pointed || state.pinned;
const single = record => unpack({...record, maps: record.map, layers: [], heads: []});

function gazeOf(k) {
  const gaze = state.gazes.get(state.records[k]?.id);
  return gaze && chosen.cell ? chosen.cell.gazes.get(gaze) || gaze : gaze;
}

// Chooses the layer and head whose maps are drawn; "": the mean of all.
export async function chooseCell(layer, head) {
  const said = [layer && `layer ${layer}`, head && `head ${head}`].filter(Boolean).join(", "), cell = {said, gazes: new Map()};
  chosen.cell = said ? cell : null;
  if (said) await Promise.all(state.records.map(async ({id}) => {
    const gaze = state.gazes.get(id), numbers = [layer, head].map(one => (one === "" ? [] : [Number(one)]));
    if (gaze?.map) cell.gazes.set(gaze, unpack({...gaze, ...await call("gaze_heads", id, ...numbers)}));
  })).catch(problem);
  draw();
}

function say(text, scale = "", signed = false) {
  $("caption").textContent = text;
  $("scale").dataset.kind = scale && (signed ? "signed" : "heat");
  $("scale").firstChild.textContent = signed ? `−${scale}` : "0";
  $("scale-top").textContent = signed ? `+${scale}` : scale;
}

function heat(values, gaze, top, text, {signed = false, scale = percent(top)} = {}) {
  drawHeat($("heat"), values, gaze.grid, gaze.box, top, signed);
  $("frame").classList.add("dim");
  say(text, scale, signed);
}

function draw() {
  clearHeat($("heat"));
  $("frame").classList.remove("dim");
  if (chosen.source === "shift") return drawShift();
  if (otherPicture()) return say("The answers are about another picture. Run, then point at a word.");
  const now = place(), record = state.records[now?.column], gaze = now && gazeOf(now.column);
  if (!record?.words) return say(state.records.length
    ? "Point at a word: the picture shows where the model looked. Drag over the picture to find words."
    : [state.picture.note, "Run, then point at a word: the picture shows where the model looked."].filter(Boolean).join(" · "));
  if (!gaze?.map) return say(gaze?.error ? `No map: ${gaze.error}` : record.id ? "Reading where it looked …" : "No map is stored with this answer.");
  const text = record.words[now.word].text, where = chosen.cell ? `, ${chosen.cell.said}` : "";
  const finding = gaze.findings.find(({name}) => name === chosen.source);
  if (finding) return drawFinding(finding, gaze, now.column);
  if (chosen.source === "lens") return drawLens(record, now.word, text);
  if (chosen.whose[0] === "d") return drawDifference(Number(chosen.whose.slice(1)), now, text, where);
  const top = peak(state.records.map((_, k) => gazeOf(k)).filter(Boolean));
  heat(gaze.map(now.word), gaze, top, `“${text}” in ${LETTERS[now.column]}: attention${where}`);
}

function drawShift() {
  if (!shift) return say("Reading the gaze shift: what the question makes the model look at …");
  heat(shift.map(0), shift, shift.scale, "Gaze shift: where attention grows most while the question is read");
}

function drawFinding({name, hint, values}, gaze, column) {
  const flat = values.flat(9), top = Math.max(...flat.map(Math.abs), 1e-9);
  heat(flat, gaze, top, `${name} in ${LETTERS[column]}: ${hint}`, {scale: top.toPrecision(2)});
}

function drawLens({id}, word, text) {
  if (lens?.key !== `${id} ${word}`) return say("Reading words off the patches …");
  heat(lens.map(0), lens, lens.scale,
    `Logit lens, layer ${lens.layer}: how likely “${text}” is at each patch. Point at the picture for the likeliest words there.`);
}

const difference = (a, b) => a.map((value, i) => value - b[i]);

function drawDifference(other, {column, word}, text, where) {
  const pair = [0, other].map(k => ({gaze: gazeOf(k), word: twin(aligned(), column, word, k)}));
  if (pair.some(one => one.word < 0 || !one.gaze?.map))
    return say(`“${text}” has no counterpart in ${LETTERS[column ? 0 : other]}, so there is no difference.`);
  const values = difference(...pair.map(one => one.gaze.map(one.word))), [a, b] = pair.map(one => one.gaze);
  const words = aligned()[other].place.map((first, i) => [first, i]).filter(([first]) => first >= 0);
  const all = words.flatMap(([first, i]) => [...difference(a.map(first), b.map(i))].map(Math.abs));  // one scale for all words
  const top = Math.max(1e-9, ...all);
  if (!values.some(value => Math.abs(value) > top / 255)) return say(`“${text}”: A and ${LETTERS[other]} look alike here.`);
  heat(values, a, top, `“${text}”: A looks more (orange), ${LETTERS[other]} looks more (blue)${where}`, {signed: true});
}

function segments(element, options, value, pick) {
  const focused = element.contains(document.activeElement);
  element.replaceChildren(...options.map(([name, label, title]) => make("button", {
    type: "button", role: "radio", "aria-checked": String(name === value), tabindex: name === value ? 0 : -1, title,
    click: () => pick(name),
  }, label)));
  if (focused) element.querySelector('[aria-checked="true"]')?.focus();
}

function switches() {
  const {records} = state, now = place();
  const whose = records.map(({strategy}, k) => [String(k), LETTERS[k], strategy]);
  for (let k = 1; k < records.length; k++) whose.push([`d${k}`, `A−${LETTERS[k]}`, `difference of A and ${LETTERS[k]}`]);
  if (chosen.whose[0] !== "d" && now) chosen.whose = String(now.column);
  if (!whose.some(([name]) => name === chosen.whose)) chosen.whose = "0";
  segments($("whose"), whose, chosen.whose, chooseColumn);
  const findings = (now && gazeOf(now.column)?.findings || []).filter(({kind}) => kind === "map");
  segments($("source"), [...SOURCES, ...findings.map(({name, hint}) => [name, name, hint])], chosen.source, chooseSource);
}

function chooseColumn(name) {
  const now = state.pinned || state.pointed, column = Number(name);
  const word = now && name[0] !== "d" ? twin(aligned(), now.column, now.word, column) : -1;
  chosen.whose = name;
  if (word >= 0) Object.assign(state, {pinned: {column, word}, pointed: null});
  emit("word");
}

async function chooseSource(name) {
  const {picture, prompt} = otherPicture() ? state.setup : state.answered || state.setup, mine = ++asking;
  chosen.source = name;
  switches();
  draw();
  try {
    if (name === "shift" && !shift) {
      const got = single(await call("saliency", picture, prompt));
      if (mine === asking) shift = got;
    }
    if (name === "lens") await readPatches();
  } catch (error) { problem(error); }
  draw();
}

async function readPatches() {
  const now = place(), id = state.records[now?.column]?.id, key = `${id} ${now?.word}`;
  if (!id || lens?.key === key || reading || otherPicture()) return;
  reading = true;  // one word at a time, however many are pointed at meanwhile
  try {
    lens = {...single(await call("lens", id, now.word)), key};
  } finally { reading = false; }
  draw();
  if (chosen.source === "lens") await readPatches();
}

// Forgets the gaze shift of another picture or question.
function forget() {
  shift = null;
  asking++;
  if (chosen.source === "shift") chosen.source = "attention";
}

function drag() {
  const frame = $("frame"), region = $("region");
  let from = null;
  const at = event => {
    const box = frame.getBoundingClientRect(), part = (value, low, size) => Math.max(0, Math.min(1, (value - low) / size));
    return [part(event.clientX, box.left, box.width), part(event.clientY, box.top, box.height)];
  };
  frame.onpointerdown = event => {
    from = at(event);
    frame.setPointerCapture(event.pointerId);
    region.hidden = true;
    light([]);
  };
  frame.onpointermove = event => {
    const to = at(event), words = chosen.source === "lens" && lens?.words[cellAt(lens, ...to)];
    if (words) $("caption").textContent = `In this patch: ${words.map(([text, share]) => `${text.trim()} ${percent(share)}`).join(" · ")}`;
    if (!from) return;
    const [x0, x1] = [from[0], to[0]].sort((a, b) => a - b), [y0, y1] = [from[1], to[1]].sort((a, b) => a - b);
    if (x1 - x0 < 0.02 || y1 - y0 < 0.02) return;
    region.hidden = false;
    const edges = {left: x0, top: y0, width: x1 - x0, height: y1 - y0};
    for (const [edge, value] of Object.entries(edges)) region.style[edge] = `${100 * value}%`;
    lightWords([x0, y0, x1, y1]);
  };
  frame.onpointerup = frame.onpointercancel = () => { from = null; };
}

// Lights the words of all columns that looked into a rectangle more than most: by a standard deviation over all words.
function lightWords(rectangle) {
  if (otherPicture()) return;
  const scores = state.records.map((record, k) => (gazeOf(k)?.map ? inside(gazeOf(k), record.words.length, rectangle) : []));
  const all = scores.flat(), mean = list => list.reduce((sum, value) => sum + value, 0) / (list.length || 1);
  const least = mean(all) + Math.sqrt(mean(all.map(value => (value - mean(all)) ** 2)));
  light(scores.map(column => column.flatMap((value, i) => (value > least ? [i] : []))));
  $("caption").textContent = `Lit words looked here most: at least ${percent(least)} of their attention on the picture.`;
}

drag();
for (const id of ["whose", "source"]) rove($(id));
on("setup", part => {
  if ("picture" in part) {
    $("photo").src = state.picture.url;
    $("photo").alt = state.picture.alt;
    $("region").hidden = true;
    lens = null;
    light([]);
  }
  if ("picture" in part || "prompt" in part) {
    forget();
    switches();
    draw();
  }
});
on("answers", () => {
  if (state.records.length && !state.running) return;
  chosen.cell = null;
  forget();
});
for (const name of ["answers", "word", "gaze"]) on(name, () => { switches(); draw(); });
on("word", () => { if (chosen.source === "lens") readPatches().catch(problem); });
$("photo").onload = () => {
  $("compare").style.setProperty("--ratio", $("photo").naturalWidth / $("photo").naturalHeight);
  draw();
};
addEventListener("resize", draw);
