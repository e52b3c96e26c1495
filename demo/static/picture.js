// The picture, which is where heat is drawn: the word under pointer or focus, one scale for all columns, differences,
// gaze shift, logit lens, and a rectangle that lights the words that looked there. Below it the scenes and the objects.

import {call} from "./api.js";
import {cellAt, clearHeat, drawHeat, inside, peak, unpack} from "./display/gaze.js";
import {twin} from "./display/words.js";
import {$, make, rove} from "./dom.js";
import {aligned, light} from "./columns.js";
import {change, chooseScene, emit, on, openPicture, problem, state} from "./page.js";

const LETTERS = "ABCD", SOURCES = {attention: "attention", shift: "gaze shift", lens: "logit lens"};
const chosen = {whose: "0", source: "attention", cell: null, finding: null};  // cell: {layers, heads, maps: by record id}
let shift = null, lens = null;

// The chosen layer and head, whose maps are drawn instead of the mean of all; null: the mean.
export async function chooseCell(layer, head) {
  const layers = layer === "" ? [] : [Number(layer)], heads = head === "" ? [] : [Number(head)];
  chosen.cell = layers.length + heads.length ? {said: [layer !== "" && `layer ${layer}`, head !== "" && `head ${head}`].filter(Boolean).join(", "), maps: {}} : null;
  const {cell} = chosen;
  if (cell) await Promise.all(state.records.map(async ({id}) => {
    const gaze = state.gazes.get(id);
    if (!gaze?.map) return;
    cell.maps[id] = unpack({...gaze, ...await call("gaze_heads", id, layers, heads)});
  })).catch(problem);
  draw();
}

const gazeOf = k => {
  const id = state.records[k]?.id, gaze = state.gazes.get(id);
  return chosen.cell && gaze ? chosen.cell.maps[id] || gaze : gaze;
};

function draw() {
  const place = state.pointed || state.pinned, canvas = $("heat");
  const gazes = state.records.map((_, k) => gazeOf(k)).filter(gaze => gaze?.map), top = peak(gazes);
  const say = (text, scale = "", signed = false) => {
    $("caption").textContent = text;
    $("scale").dataset.kind = scale ? (signed ? "signed" : "heat") : "";
    $("scale").firstChild.textContent = signed ? `−${scale}` : "0";
    $("scale-top").textContent = signed ? `+${scale}` : scale;
  };
  const percent = value => `${(100 * value).toPrecision(2)} %`;
  clearHeat(canvas);
  $("frame").classList.remove("dim");
  const heat = (values, gaze, most, signed) => { drawHeat(canvas, values, gaze.grid, gaze.box, most, signed); $("frame").classList.add("dim"); };
  if (chosen.source === "shift") {
    if (!shift) return say("Reading the gaze shift: what the question makes the model look at …");
    heat(shift.map(0), shift, shift.scale);
    return say("Gaze shift: where attention grows most while the question is read", percent(shift.scale));
  }
  if (!place || !state.records[place.column]?.words) return say(state.records.length
    ? "Point at a word: the picture shows where the model looked. Drag over the picture to find words."
    : [state.picture.note, "Run, then point at a word: the picture shows where the model looked."].filter(Boolean).join(" · "));
  const {column, word} = place, other = Number(chosen.whose.slice(1)), signed = chosen.whose[0] === "d";
  const gaze = gazeOf(column), text = state.records[column].words[word]?.text;
  if (!gaze?.map) return say(gaze?.error ? `No map: ${gaze.error}` : "Reading where it looked …");
  const finding = gaze.findings.find(({name}) => name === chosen.source);
  if (finding) {
    const values = finding.values.flat(9), most = Math.max(...values.map(Math.abs), 1e-9);
    heat(values, gaze, most);
    return say(`${finding.name} in ${LETTERS[column]}: ${finding.hint}`, most.toPrecision(2));
  }
  const cell = chosen.cell ? `, ${chosen.cell.said}` : "";
  if (signed) {
    const here = [0, other].map(k => ({gaze: gazeOf(k), word: twin(aligned(), column, word, k)}));
    if (here.some(one => one.word < 0 || !one.gaze?.map)) return say(`“${text}” has no counterpart in ${LETTERS[column ? 0 : other]}, so there is no difference.`);
    const values = difference(...here.map(one => one.gaze.map(one.word))), most = largestDifference(other);
    if (!values.some(value => Math.abs(value) > most / 255)) return say(`“${text}”: A and ${LETTERS[other]} look alike here.`);
    heat(values, gaze, most, true);
    return say(`“${text}”: A looks more (orange), ${LETTERS[other]} looks more (blue)${cell}`, percent(most), true);
  }
  if (chosen.source === "lens") {
    if (lens?.key !== `${state.records[column].id} ${word}`) return say("Reading words off the patches …");
    heat(lens.map(0), lens, lens.scale);
    return say(`Logit lens, layer ${lens.layer}: how likely “${text}” is at each patch. Point at the picture for the likeliest words there.`, percent(lens.scale));
  }
  heat(gaze.map(word), gaze, top);
  return say(`“${text}” in ${LETTERS[column]}: attention${cell}`, percent(top));
}

const difference = (a, b) => a.map((value, i) => value - b[i]);

// The largest difference of A and another column over all words, so that every difference has one scale.
function largestDifference(other) {
  const words = aligned()[other].place.map((place, word) => [place, word]).filter(([place]) => place >= 0);
  return Math.max(1e-9, ...words.flatMap(([place, word]) => [...difference(gazeOf(0).map(place), gazeOf(other).map(word))].map(Math.abs)));
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
  const count = state.records.length, place = state.pointed || state.pinned;
  const whose = [...Array(count).keys()].map(k => [String(k), LETTERS[k], state.records[k].strategy]);
  for (let k = 1; k < count; k++) whose.push([`d${k}`, `A−${LETTERS[k]}`, `difference of A and ${LETTERS[k]}`]);
  if (chosen.whose[0] !== "d" && place) chosen.whose = String(place.column);
  if (!whose.some(([name]) => name === chosen.whose)) chosen.whose = "0";
  segments($("whose"), whose, chosen.whose, name => {
    chosen.whose = name;
    const from = state.pinned || state.pointed, to = Number(name);
    const word = from && name[0] !== "d" ? twin(aligned(), from.column, from.word, to) : -1;
    if (word >= 0) Object.assign(state, {pinned: {column: to, word}, pointed: null});
    emit("word");
  });
  const findings = gazeOf(place?.column)?.findings?.filter(({kind}) => kind === "map") || [];
  segments($("source"), [...Object.entries(SOURCES), ...findings.map(({name, hint}) => [name, name, hint])], chosen.source, source);
}

async function source(name) {
  chosen.source = name;
  switches();
  draw();
  const {picture, prompt} = state.answered || state.setup;
  try {
    if (name === "shift" && !shift) {
      shift = one(await call("saliency", picture, prompt));
      draw();
    }
    if (name === "lens") await patches();
  } catch (error) { problem(error); }
}

const one = record => unpack({...record, maps: record.map, layers: [], heads: []});

// Reads words off the patches for the pinned word, or else the one pointed at.
async function patches() {
  const place = state.pinned || state.pointed, id = place && state.records[place.column].id, key = `${id} ${place?.word}`;
  if (!id || lens?.key === key) return;
  lens = {...one(await call("lens", id, place.word, null)), key};
  draw();
}

function scenes() {
  const {scenes: all} = state.about, {picture} = state.setup;
  const thumb = (chosenNow, label, image, pick) => make("button", {type: "button", role: "radio", "aria-checked": String(chosenNow), "aria-label": label,
    title: label, tabindex: chosenNow ? 0 : -1, click: pick}, image);
  $("scenes").replaceChildren(
    ...all.map((scene, i) => thumb(picture?.scene === i, scene.title, make("img", {src: scene.image, alt: "", width: 52, height: 52}), () => chooseScene(i))),
    thumb("upload" in (picture || {}), "Your picture", "upload" in (picture || {}) && state.picture.url ? make("img", {src: state.picture.url, alt: "", width: 52, height: 52}) : "yours", () => $("file").click()));
}

const listed = new Set();  // names of the objects that have a chip

// Objects as chips with three states, in turn: in the picture, not in it, not known.
export function objects() {
  const {present, absent} = state.setup;
  for (const name of [...(present || []), ...(absent || []), ...(state.offers?.ask || [])]) listed.add(name);
  const names = [...listed];
  const of = name => present?.includes(name) ? "there" : (absent ? absent.includes(name) : present) ? "not there" : "not known";
  const next = {there: "not there", "not there": "not known", "not known": "there"}, glyph = {there: "✓", "not there": "✗", "not known": "?"};
  const set = (name, kind) => {
    const all = [...new Map(names.map(one => [one, of(one)])).set(name, kind)];
    const pick = wanted => all.filter(([, one]) => one === wanted).map(([one]) => one);
    listed.add(name);
    change({present: pick("there"), absent: pick("not known").length || absent ? pick("not there") : null});
  };
  const at = [...$("objects").children].indexOf(document.activeElement);
  $("objects").replaceChildren(...names.map((name, i) => make("button", {type: "button", class: "chip", "data-kind": of(name), tabindex: i ? -1 : 0,
    "aria-label": `${name}: ${of(name)}`, title: `${of(name)}; click: ${next[of(name)]}`, click: () => set(name, next[of(name)])}, make("i", {"aria-hidden": "true"}, glyph[of(name)]), name)));
  $("objects").children[at]?.focus();
  $("object").onkeydown = event => {
    const name = event.target.value.trim();
    if (event.key !== "Enter" || !name) return;
    event.target.value = "";
    set(name, "there");
  };
}

function drag() {
  const frame = $("frame"), region = $("region");
  let from = null;
  const place = event => {
    const box = frame.getBoundingClientRect(), part = (value, low, size) => Math.max(0, Math.min(1, (value - low) / size));
    return [part(event.clientX, box.left, box.width), part(event.clientY, box.top, box.height)];
  };
  frame.onpointerdown = event => { from = place(event); frame.setPointerCapture(event.pointerId); region.hidden = true; light([]); };
  frame.onpointermove = event => {
    const to = place(event);
    const words = chosen.source === "lens" && lens?.words?.[cellAt(lens, ...to)];
    if (words) $("caption").textContent = `In this patch: ${words.map(([text, share]) => `${text.trim()} ${(100 * share).toFixed(0)} %`).join(" · ")}`;
    if (!from) return;
    const [x0, x1] = [from[0], to[0]].sort(), [y0, y1] = [from[1], to[1]].sort();
    if (x1 - x0 < 0.02 || y1 - y0 < 0.02) return;
    region.hidden = false;
    Object.assign(region.style, {left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%`});
    lightWords([x0, y0, x1, y1]);
  };
  frame.onpointerup = frame.onpointercancel = () => { from = null; };
}

// Lights the words of all columns that looked into a rectangle more than most: by a standard deviation over all words.
function lightWords(rectangle) {
  const scores = state.records.map((record, k) => gazeOf(k)?.map ? inside(gazeOf(k), record.words.length, rectangle) : []);
  const all = scores.flat(), mean = list => list.reduce((sum, value) => sum + value, 0) / (list.length || 1);
  const least = mean(all) + Math.sqrt(mean(all.map(value => (value - mean(all)) ** 2)));
  light(scores.map(column => column.flatMap((value, i) => (value > least ? [i] : []))));
  $("caption").textContent = `Lit words looked here most: at least ${(100 * least).toFixed(0)} % of their attention on the picture.`;
}

on("about", () => { drag(); ["scenes", "whose", "source"].forEach(id => rove($(id))); rove($("objects")); });
on("setup", part => {
  if ("picture" in part) {
    Object.assign($("photo"), {src: state.picture.url, alt: state.picture.alt});
    $("region").hidden = true;
    shift = lens = null;
    listed.clear();
    state.offers = null;
    scenes();
  }
  if ("picture" in part || "present" in part || "absent" in part) objects();
  if ("prompt" in part) shift = null;
});
on("offers", objects);
for (const name of ["answers", "word", "gaze"]) on(name, () => { switches(); draw(); });
on("answers", () => { if (!state.records.length || state.running) chosen.cell = null; });
on("word", () => { if (chosen.source === "lens") patches().catch(problem); });
$("photo").onload = () => { $("compare").style.setProperty("--ratio", $("photo").naturalWidth / $("photo").naturalHeight); draw(); };
$("file").onchange = event => { if (event.target.files[0]) openPicture(event.target.files[0]); event.target.value = ""; };
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => { event.preventDefault(); if (event.dataTransfer.files[0]) openPicture(event.dataTransfer.files[0]); });
addEventListener("resize", draw);
