// The Runs and Examples views: fragments that the server draws. A figure of the table opens its items, an item or example
// opens in Compare with its stored answers; no model is asked.
import {call} from "./api.js";
import {$} from "./dom.js";
import {load, problem, show, state} from "./page.js";

const section = $("runs"), find = selector => section.querySelector(selector);
let run = "", figure = {}, filters = {}, shown = 0, latest = 0;

// Asks the server and says so meanwhile. Returns nothing if that failed, or if something else was asked for since.
async function ask(text, name, ...values) {
  const own = ++latest;
  problem("");
  find("[role=status]").textContent = text;
  const answer = await call(name, ...values).catch(problem);
  if (own !== latest) return undefined;
  find("[role=status]").textContent = "";
  return answer;
}

async function list() {
  const answer = await ask("Looking for runs …", "runs");
  if (!answer) return;
  find("select").replaceChildren(...answer.runs.map(name => new Option(name)));
  find("select").value = run = answer.runs.includes(run) ? run : answer.runs[0] ?? "";
  find(".pick").hidden = !run;
  find(".none").hidden = Boolean(run);
  open();
}

async function open() {
  const answer = run && await ask(`Opening ${run} …`, "run", run);
  find(".run").innerHTML = answer?.html ?? "";
  section.querySelectorAll("[data-metric]").forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
}

async function items(offset = 0) {
  const {benchmark, group, metric, strategy} = figure, {cause = "any", visibility = "any", side = "any"} = filters;
  const answer = await ask("Looking for items …", "items", run, benchmark, group, metric, strategy, cause, visibility, side, offset);
  if (!answer) return;
  const place = find(".items"), field = document.activeElement?.closest(".items select")?.name;
  if (offset) place.querySelector("ol").insertAdjacentHTML("beforeend", answer.html);
  else place.innerHTML = answer.html;
  shown = answer.shown;
  place.querySelector("output").textContent = `${shown} of ${answer.total}`;
  place.querySelector(".next").hidden = shown >= answer.total;
  (offset ? place.querySelectorAll("[data-item]")[offset] : place.querySelector(field ? `[name="${field}"]` : "h3")).focus();
}

async function compare(answer) {
  if (!answer) return;
  const {setup, image, columns, model, notes} = answer, [kind, data] = image.split(";base64,");
  const bytes = data && Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  await load(data ? {...setup, picture: {file: new File([bytes], "picture", {type: kind.slice(5)})}} : setup);
  const other = model === state.about.model.name ? [] : [`${model} gave these answers; here ${state.about.model.name} answers.`];
  show(columns, [...notes, ...other].join(" "));
}

// Arrow keys walk the figures of the table, which has one tab stop.
function walk(event) {
  const cell = event.target.closest("[data-metric]"), [across, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] || [];
  if (!cell || across === undefined) return;
  const rows = [...section.querySelectorAll("tbody tr")].map(row => [...row.querySelectorAll("[data-metric]")]).filter(row => row.length);
  const y = rows.findIndex(row => row.includes(cell)), next = rows[y + down]?.[rows[y].indexOf(cell) + across];
  event.preventDefault();
  if (!next) return;
  [cell.tabIndex, next.tabIndex] = [-1, 0];
  next.focus();
}

section.innerHTML = `<div class="pick row" hidden><label>Run <select></select></label><button type="button" class="again">Look again</button></div>
<p class="none" hidden>No runs here yet. <code>mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first</code> makes one. <button type="button" class="again">Look again</button></p>
<p class="small" role="status"></p><div class="run"></div>`;
section.addEventListener("open", () => { if (!run) list(); });
section.addEventListener("keydown", walk);
section.addEventListener("change", event => {
  const {name, value} = event.target;
  if (name) { filters[name] = value; items(); }
  else { run = value; open(); }
});
section.addEventListener("click", async event => {
  const cell = event.target.closest("[data-metric]"), item = event.target.closest("[data-item]");
  if (event.target.closest(".again")) list();
  if (event.target.closest(".next")) items(shown);
  if (item) compare(await ask("Opening …", "item", run, figure.benchmark, item.dataset.item, figure.strategy));
  if (!cell) return;
  section.querySelectorAll("[data-metric]").forEach(other => other.setAttribute("aria-pressed", other === cell));
  [figure, filters] = [cell.dataset, {}];
  items();
});
section.addEventListener("toggle", async ({target}) => {
  const place = target.querySelector(".more");
  if (target.open && place && !place.innerHTML) place.innerHTML = (await ask("Computing every table …", "tables", run))?.html ?? "";
}, true);
$("examples").addEventListener("open", async ({target}) => { target.innerHTML ||= (await call("examples").catch(problem))?.html ?? ""; });
$("examples").addEventListener("click", async event => {
  const key = event.target.closest("[data-example]")?.dataset.example;
  if (key) compare(await call("example", key).catch(problem));
});
