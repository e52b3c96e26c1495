// State of the page, and what changes it. Other modules draw it; they are told by `on(event, heard)` of
//   "about"    what the server offers has come          "setup"    the set-up changed; heard(part that changed)
//   "model"    the model is loaded, or cannot be        "answers"  columns grew, came, or were judged anew
//   "gaze"     maps of an answer came                   "word"     another word is pointed at, or pinned
//   "running"  a run began, moved on in the queue,      "view"     another view was chosen; heard(its name)
//              or ended                                 "offers"   prompts and objects for this picture came (state.offers)
// state: about, setup (the record that a link holds), records (columns), answered (the set-up that they answer), gazes (by
// record id; null: being read), pointed and pinned ({column, word} or null), picture ({url, alt, note}), running, note.
// For other views: load(setup, view), show(records, note), run(), stop(), openPicture(file), change(part), view(name),
// link(). Links: #setup=JSON&view=NAME; other keys of the fragment are left as they are.

import {call, follow, upload, withdraw} from "./api.js";
import {unpack} from "./display/gaze.js";
import {$, rove} from "./dom.js";

export const state = {
  about: null, records: [], answered: null, gazes: new Map(), pointed: null, pinned: null, running: null, note: "",
  picture: {url: "", alt: ""},
  setup: {
    picture: {scene: 4}, prompt: "Please describe this image in detail.", strategies: ["greedy", "vdd"],
    max_new_tokens: 128, temperature: 0, seed: 0,
  },
};
const hub = new EventTarget();
export const on = (name, heard) => hub.addEventListener(name, event => heard(event.detail));
export const emit = (name, detail) => hub.dispatchEvent(new CustomEvent(name, {detail}));

export function problem(error) {
  $("problem").textContent = error ? error.message || String(error) : "";
  $("problem").hidden = !error;
}

const fragment = () => new URLSearchParams(location.hash.slice(1));
const shown = () => document.querySelector('[role=tab][aria-selected="true"]').dataset.view;
export const link = () => location.href;

function remember() {
  const parts = fragment();
  parts.set("setup", JSON.stringify(state.setup));
  parts.set("view", shown());
  history.replaceState(null, "", `#${parts}`);
}

export function change(part) {
  Object.assign(state.setup, part);
  remember();
  emit("setup", part);
  if (("present" in part || "absent" in part) && !("picture" in part)) judge();
}

async function judge() {
  const ids = state.records.map(record => record.id), {present, absent} = state.setup;
  if (!ids.length || state.running || otherPicture()) return;
  if (!ids.every(Boolean)) {
    state.note = "stored answers keep the marks they were stored with";
    emit("answers");
    return;
  }
  try {
    const {columns} = await call("judge", ids, present, absent);
    if (ids.every((id, k) => state.records[k]?.id === id)) { state.records = columns; emit("answers"); }
  } catch (error) { problem(error); }
}

const asked = ({picture, prompt, max_new_tokens, temperature, seed}) =>
  JSON.stringify([picture, prompt, max_new_tokens, temperature, seed]);

// Whether a column answers something else than the set-up asks now.
export const stale = k => Boolean(state.answered) && !state.running &&
  (asked(state.answered) !== asked(state.setup) || state.answered.strategies[k] !== state.setup.strategies[k]);

// Whether the columns answer about another picture than the one that is shown.
export const otherPicture = () => Boolean(state.answered) &&
  JSON.stringify(state.answered.picture) !== JSON.stringify(state.setup.picture);

export function point(place, pin = false) {
  state[pin ? "pinned" : "pointed"] = place;
  emit("word");
}

// Shows columns, finished ones of a run or stored ones, as the answers to the set-up as it is now.
export function show(records, note = "", answered = structuredClone(state.setup)) {
  Object.assign(state, {records, note, answered, pointed: null, pinned: null});
  emit("answers");
  records.filter(record => record.id && !state.gazes.has(record.id)).forEach(async ({id}) => {
    state.gazes.set(id, null);
    const gaze = await call("gaze", id).catch(error => ({error: error.message}));
    state.gazes.set(id, gaze.error ? gaze : unpack(gaze));
    emit("gaze");
  });
}

export async function run() {
  if (state.running) return;
  const running = {said: "sending", started: false, id: ""}, current = () => state.running === running;
  const move = part => {
    Object.assign(running, part);
    if (current()) emit("running");
  };
  const {picture, prompt, strategies, present, absent, max_new_tokens, temperature, seed} = structuredClone(state.setup);
  problem("");
  Object.assign(state, {running, pointed: null, pinned: null, note: "", answered: structuredClone(state.setup)});
  state.gazes.clear();
  state.records = strategies.map(strategy => ({strategy, prompt, state: "waiting", text: "", tokens: 0}));
  emit("answers");
  emit("running");
  let grown = [];
  const grow = ({columns}) => {
    if (!current()) return;  // another set-up was loaded
    const tokens = columns.reduce((sum, column) => sum + column.tokens, 0);
    move({started: true, said: tokens ? `${tokens} token${tokens > 1 ? "s" : ""}` : "reading the picture"});
    state.records = grown = columns;
    emit("answers");
  };
  const loading = () => state.about?.model.state === "loading" && "loading the model";
  const line = ["second", "third", "fourth", "fifth", "sixth"];
  try {
    const last = await follow("compare", [picture, prompt, strategies, {max_new_tokens, temperature, seed, present, absent}], {
      known: id => {
        move({id});
        if (running.givenUp) withdraw(id).catch(problem);
      },
      rank: rank => setTimeout(() => running.started || move({said: loading() || `${line[rank] || `${rank + 2}th`} in line`}), 150),
      start: () => move({started: true, said: loading() || "reading the picture"}),
      grow,
    });
    if (last) grown = last.columns;
  } catch (error) { problem(error); }
  if (!current()) return;
  state.running = null;
  show(grown, "", grown.length ? state.answered : null);
  emit("running");
}

export function stop() {
  const {running} = state;
  if (!running?.id) Object.assign(running || {}, {givenUp: true});
  else (running.started ? call("stop") : withdraw(running.id)).catch(problem);
}

// Opens a picture of the visitor's own; one that is refused leaves the page as it was.
export async function openPicture(file) {
  problem("");
  try {
    await receive(await upload(file), URL.createObjectURL(file), file.name);
  } catch (error) { problem(error); }
}

async function receive(path, url, name) {
  const got = await call("receive", {upload: path});
  setPicture({upload: got.upload}, got.image || url, `your picture ${name}`, got.note);
}

function setPicture(picture, url, alt, note = "", known = {present: null, absent: null}) {
  state.picture = {url, alt, note};
  change({picture, ...known});
}

export function chooseScene(index, known) {
  const scene = state.about.scenes[index];
  setPicture({scene: index}, `scene/${index}.png`, scene.alt, "", known || {present: scene.objects, absent: null});
}

// Loads a set-up, and the view that shows it, without running anything; its picture may be {file: File}, or null: none.
// Returns whether the picture could be opened.
export async function load(setup, name = "compare") {
  const {picture, ...rest} = setup, known = "present" in setup && {present: setup.present, absent: setup.absent ?? null};
  stop();
  Object.assign(state, {records: [], answered: null, pointed: null, pinned: null, running: null, note: ""});
  Object.assign(state.setup, rest);
  view(name);
  emit("running");
  try {
    if (picture?.file) await receive(await upload(picture.file), URL.createObjectURL(picture.file), picture.file.name);
    else if (picture === null) setPicture({}, "", "no picture");
    else if (picture?.url) setPicture({upload: picture.upload}, picture.url, "your picture");
    else if (picture?.upload) await receive(picture.upload, `gradio_api/file=${encodeURIComponent(picture.upload)}`, "");
    else chooseScene(Math.min(picture?.scene ?? 4, state.about.scenes.length - 1), known);
    if (known && !("scene" in (picture || {}))) change(known);
  } catch (error) {
    problem(error);
    return false;
  } finally { emit("answers"); }
  return true;
}

export function view(name) {
  for (const tab of document.querySelectorAll("#views [role=tab]")) {
    const chosen = tab.dataset.view === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.dataset.view).hidden = !chosen;
  }
  remember();
  $(name).dispatchEvent(new CustomEvent("open"));
  emit("view", name);
}

function readLink(parts) {
  try {
    return {...state.setup, ...JSON.parse(parts.get("setup") || "{}")};
  } catch {
    problem("The set-up in this link cannot be read; the link may be cut.");
    return state.setup;
  }
}

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  if (localStorage.theme) root.dataset.theme = localStorage.theme;
  $("theme").onclick = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = localStorage.theme = now === "dark" ? "light" : "dark";
  };
}

async function start() {
  const parts = fragment(), setup = readLink(parts), wanted = document.querySelector(`#views [data-view="${parts.get("view")}"]`);
  for (const tab of document.querySelectorAll("#views [role=tab]")) tab.onclick = () => view(tab.dataset.view);
  rove($("views"), true);
  theme();
  try {
    state.about = await call("about");
    emit("about");
    await load(setup, wanted ? wanted.dataset.view : "compare");
    $("run").disabled = false;  // before, a press would be the browser's own, and be lost
    while (state.about.model.state === "loading") {
      await new Promise(done => setTimeout(done, 500));
      state.about = await call("about");
    }
    emit("model");
  } catch (error) { problem(error); }
}

addEventListener("DOMContentLoaded", start);  // when every module of the page listens
