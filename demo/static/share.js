// Share: a link, the comparison as SVG and PNG drawn from the page as it stands, its table, and what repeats it.

import {call} from "./api.js";
import {$, make} from "./dom.js";
import {link, on, otherPicture, problem, state} from "./page.js";
import {draw} from "./svg.js";

const MARGIN = 24;

export function save(name, content, type = "text/plain") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function copy(name, text) {  // a page that is not at https or on this machine has no clipboard
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!copied) save(name, text);
  $("shared").textContent = copied ? "Copied." : "Saved as a file.";
}

function picture() {
  const frame = $("frame").getBoundingClientRect(), columns = $("columns"), left = frame.width + 2 * MARGIN, below = 2 * MARGIN;
  const size = [left + columns.scrollWidth + MARGIN, Math.max(frame.height, below + columns.scrollHeight) + 2 * MARGIN];
  return [draw([[$("frame"), MARGIN, MARGIN], [$("note"), left, MARGIN], [columns, left, MARGIN + below]], ...size), ...size];
}

async function png() {
  const [text, width, height] = picture(), image = new Image(), canvas = make("canvas", {width: 2 * width, height: 2 * height});
  image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  save("comparison.png", await new Promise(done => canvas.toBlob(done)));
}

// What the server writes: the set-up that was answered, with the objects as they are marked now, and the answers.
async function written(kind) {
  const {present, absent} = otherPicture() ? state.answered : state.setup;
  return (await call("exports", {...state.answered, present, absent}, state.records))[kind];
}

const WAYS = {
  "Copy link": () => copy("link.txt", link()),
  "PNG": png,
  "SVG": () => save("comparison.svg", picture()[0], "image/svg+xml"),
  "CSV": async () => save("comparison.csv", await written("csv"), "text/csv"),
  "Notebook": async () => save("comparison.ipynb", await written("notebook"), "application/x-ipynb+json"),
  "Copy Markdown": async () => copy("comparison.md", await written("markdown")),
  "Copy LaTeX": async () => copy("comparison.tex", await written("latex")),
  "Copy Python": async () => copy("comparison.py", await written("python")),
  "Copy shell": async () => copy("comparison.sh", await written("shell")),
};

const buttons = Object.entries(WAYS).map(([label, way]) => make("button", {
  type: "button", click: () => { $("shared").textContent = ""; Promise.resolve().then(way).catch(problem); },
}, label));
$("share").append(make("button", {type: "button", class: "quiet", popovertarget: "ways"}, "Share"),
  make("div", {id: "ways", popover: true}, ...buttons, make("output", {id: "shared"})));
const ready = () => buttons.slice(1).forEach(button => { button.disabled = !state.records.length || Boolean(state.running); });
["answers", "running"].forEach(event => on(event, ready));
ready();
