// Other ways to look: Present (large, for a room), Several (pictures, one table) and Blind (the same, voted on first).

import {call, follow, upload} from "./api.js";
import {foot} from "./columns.js";
import {align, drawColumn, markWords, twin} from "./display/words.js";
import {drawHeat, peak} from "./display/gaze.js";
import {$, make} from "./dom.js";
import {load, on, otherPicture, show, state} from "./page.js";
import {save} from "./share.js";

const MOST = 20;
const votes = [];  // [picture, prompt, strategies as shown, the better one or ""]

const button = (label, click) => make("button", {type: "button", click}, label);

function dialog(name, title) {
  const close = button("Close", () => node.close());
  const node = make("dialog", {id: name, class: "mm-mode", "aria-label": title, close: () => node.remove()}, close);
  document.body.append(node);
  node.showModal();
  return node;
}

const photo = (url, ...over) =>
  make("figure", {}, make("img", {src: url, alt: "The picture that was asked about"}), ...over);

const table = (heads, rows) => make("table", {},
  make("thead", {}, make("tr", {}, ...heads.map(head => make("th", {scope: "col"}, head)))),
  make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map(cell => make("td", {}, cell))))));

// The picture and two answers: the first, and the pinned or second. D shows where one looked more than the other.
function present() {
  const records = [0, state.pinned?.column || 1].map(k => state.records[k]).filter(record => record?.words?.length);
  const gazes = records.map(({id}) => state.gazes.get(id)).map(gaze => gaze?.map && gaze);
  const aligned = align(records), top = peak(gazes), columns = records.map(() => make("div"));
  const canvas = make("canvas"), said = make("output"), room = dialog("present", "Present");
  let apart = false, at = [0, 0];
  const look = (k, index) => {
    const own = gazes[k], there = records.length > 1 ? twin(aligned, k, index, 1 - k) : -1;
    const less = apart && there >= 0 && gazes[1 - k]?.map(there);
    at = [k, index];
    columns.forEach((node, i) => markWords(node, "twin", i === k ? [] : [there]));
    const values = own?.map(index).map((value, i) => value - (less ? less[i] : 0));
    canvas.parentNode.className = own ? "dim" : "";
    if (own) drawHeat(canvas, values, own.grid, own.box, top, Boolean(less));
    const also = less ? ` more (orange) and less (blue) than ${records[1 - k].strategy}` : "";
    said.textContent = `“${records[k].words[index].text}”: where ${records[k].strategy} looked${also}`;
  };
  room.append(make("p", {class: "hint"}, "Arrow keys walk the words, D shows the difference, Escape leaves."),
    photo(state.picture.url, canvas),
    ...columns.map((node, k) => make("article", {}, make("h2", {}, records[k].strategy), node)), said);
  columns.forEach((node, k) => drawColumn(node, records[k], aligned[k], {hover: index => look(k, index)}));
  room.addEventListener("keydown", event => {
    if (event.key.toLowerCase() === "d") { apart = !apart; look(...at); }
  });
  columns[0]?.querySelector(".mm-word")?.focus();
}

// Asks which answer is better: without names, marks and costs, in another order for each picture.
function vote(place, [item, ...rest], done) {
  if (!item) return done();
  const records = item.records.map(record => [Math.random(), record])
    .sort(([a], [b]) => a - b).map(([, record]) => record);
  const choose = better => () => {
    votes.push([item.name, records[0].prompt, records.map(({strategy}) => strategy).join(" | "), better]);
    vote(place, rest, done);
  };
  place.replaceChildren(photo(item.url), ...records.map(({text, strategy}, number) =>
    make("article", {}, make("p", {}, text), button(`Answer ${number + 1} is better`, choose(strategy)))),
  button("No difference", choose("")));
}

const quoted = cell => `"${cell.replace(/^(?=[=+\-@\t\r])/, "'").replaceAll('"', '""')}"`;
const asCsv = lines => lines.map(line => line.map(quoted).join(",") + "\r\n").join("");

function tally() {
  const shown = votes.map(([, , names]) => names.split(" | ")), strategies = [...new Set(shown.flat())];
  const count = found => `${found.length} of ${votes.length}`;
  return make("div", {}, table(["votes", "better"], [...strategies, ""].map(name =>
    [name || "no difference", count(votes.filter(([, , , better]) => better === name))])), button("CSV of the votes", () =>
    save("votes.csv", asCsv([["picture", "prompt", "shown", "better"], ...votes]), "text/csv")));
}

// Asks the set-up about several pictures, one after the other; a row of the table opens its answers.
function several(blind) {
  const room = dialog(blind ? "blind" : "several", blind ? "Blind comparison" : "Several pictures");
  const said = make("p", {role: "status"}), place = make("div", {class: "place"});
  const {picture: now, present: there, absent: away, ...setup} = structuredClone(state.setup);
  let items = [], run = 0;
  const open = async item => {
    room.close();
    if (item.picture === now || await load({...setup, ...item.known, picture: item.picture})) show(item.records);
  };
  const row = item => [make("button", {type: "button", disabled: !item.records, click: () => open(item)},
    make("img", {src: item.url, alt: ""}), item.name),
  ...setup.strategies.map((_, k) =>
    item.records ? make("div", {}, ...foot(item.records[k]).childNodes) : item.error || "…")];
  const draw = () => place.replaceChildren(...(blind && votes.length ? [tally()] : []),
    table(["picture", ...setup.strategies], items.map(row)));
  const ask = async chosen => {
    const own = ++run, {prompt, strategies, ...settings} = setup;
    items = chosen.slice(0, MOST);
    for (const [number, item] of items.entries()) {
      said.textContent = `picture ${number + 1} of ${items.length}`;
      if (!blind) draw();
      try {
        const got = item.file && await call("receive", {upload: await upload(item.file)});
        if (got?.image) item.url = got.image;  // a file that browsers do not show
        const picture = got ? {upload: got.upload} : item.picture;
        item.records = (await follow("compare", [picture, prompt, strategies, {...settings, ...item.known}])).columns;
      } catch (error) { item.error = error.message; }
      if (own !== run) return;
    }
    const left = chosen.length > MOST ? `; the other ${chosen.length - MOST} were left out` : "";
    const count = `${items.length || "no"} picture${items.length === 1 ? "" : "s"}`;
    said.textContent = `${count}: ${prompt}${left}`;
    if (blind) vote(place, items.filter(({records}) => records), draw);
    else draw();
  };
  const mine = event => ask([...event.target.files]
    .filter(({type, name}) => type.startsWith("image/") || /\.(heic|heif|tiff?)$/i.test(name))
    .map(file => ({name: file.name, file, picture: {file}, url: URL.createObjectURL(file), known: {}})));
  const scenes = () => ask(state.about.scenes.map(({title, objects, image}, scene) =>
    ({name: title, url: image, picture: {scene}, known: {present: objects, absent: null}})));
  const {alt: name, url} = state.picture, here = {name, url, picture: now, known: {present: there, absent: away}};
  room.addEventListener("close", () => { if (run++) call("stop").catch(() => {}); });
  room.append(make("h2", {}, setup.strategies.join(", ")), make("div", {class: "row"},
    make("label", {}, "Pictures ", make("input", {type: "file", multiple: true, accept: "image/*,.heic,.heif,.tif,.tiff", change: mine})),
    make("label", {}, "A folder ", make("input", {type: "file", webkitdirectory: true, change: mine})),
    button("The scenes", scenes), button("This picture", () => ask([here]))), said, place);
}

const buttons = [["Present", present], ["Several", () => several(false)], ["Blind", () => several(true)]].map(([name, open]) =>
  make("button", {type: "button", class: "quiet", click: open}, name));
$("modes").append(...buttons);
const ready = () => buttons.forEach((one, k) => {
  const unfit = [!state.records.length || otherPicture(), false, state.setup.strategies.length < 2][k];
  one.disabled = Boolean(state.running) || unfit;
});
["setup", "answers", "running"].forEach(event => on(event, ready));
ready();
