// Which picture, and what is known to be in it: scenes, a picture of one's own, and objects as chips with three states.

import {$, make, rove} from "./dom.js";
import {change, chooseScene, on, openPicture, state} from "./page.js";

const listed = new Set();  // names of the objects that have a chip
const GLYPH = {there: "✓", "not there": "✗", "not known": "?"};
const NEXT = {there: "not there", "not there": "not known", "not known": "there"};

function scenes() {
  const {picture} = state.setup, own = !("scene" in picture);
  const small = src => make("img", {src, alt: "", width: 52, height: 52});
  const thumb = (chosen, label, image, click) => make("button", {
    type: "button", role: "radio", "aria-checked": String(chosen), "aria-label": label, title: label, tabindex: chosen ? 0 : -1, click,
  }, image);
  $("scenes").replaceChildren(
    ...state.about.scenes.map(({title, image}, i) => thumb(picture.scene === i, title, small(image), () => chooseScene(i))),
    thumb(own, "Your picture", own && state.picture.url ? small(state.picture.url) : "yours", () => $("file").click()));
}

function kindOf(name) {
  const {present, absent} = state.setup;
  if (present?.includes(name)) return "there";
  return (absent ? absent.includes(name) : present) ? "not there" : "not known";
}

function mark(name, kind) {
  listed.add(name);
  const all = [...new Map([...listed].map(one => [one, kindOf(one)])).set(name, kind)];
  const some = wanted => all.filter(([, one]) => one === wanted).map(([one]) => one);
  change({present: some("there"), absent: some("not known").length || state.setup.absent ? some("not there") : null});
}

function objects() {
  const {present, absent} = state.setup, group = $("objects");
  for (const name of [...(present || []), ...(absent || []), ...(state.offers?.ask || [])]) listed.add(name);
  const at = [...group.children].indexOf(document.activeElement);
  group.replaceChildren(...[...listed].map((name, i) => {
    const kind = kindOf(name);
    return make("button", {type: "button", class: "chip", "data-kind": kind, tabindex: i ? -1 : 0, "aria-label": `${name}: ${kind}`,
      title: `${kind}; click: ${NEXT[kind]}`, click: () => mark(name, NEXT[kind])}, make("i", {"aria-hidden": "true"}, GLYPH[kind]), name);
  }));
  group.children[at]?.focus();
}

rove($("scenes"));
rove($("objects"));
$("object").onkeydown = event => {
  const name = event.target.value.trim();
  if (event.key !== "Enter" || !name) return;
  event.target.value = "";
  mark(name, "there");
};
$("file").onchange = event => {
  if (event.target.files[0]) openPicture(event.target.files[0]);
  event.target.value = "";
};
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) openPicture(event.dataTransfer.files[0]);
});
on("setup", part => {
  if ("picture" in part) {
    listed.clear();
    state.offers = null;
    scenes();
  }
  if ("picture" in part || "present" in part || "absent" in part) objects();
});
on("offers", objects);
