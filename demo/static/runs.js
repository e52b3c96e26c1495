// The Runs and Examples views: fragments that the server draws. A figure of the table opens its items, an item or example
// opens in Compare with its stored answers; no model is asked.
import {call} from "./api.js";
import {$} from "./dom.js";
import {load, problem, show, state} from "./page.js";

const section = $("runs"), find = selector => section.querySelector(selector);
const all = selector => [...section.querySelectorAll(selector)];
let run = "", figure = {}, filters = {}, shown = 0, latest = 0;

section.innerHTML = `<div class="row" id="which"><label>Run <select></select></label><button type="button" class="again">Look again</button><span class="small" role="status"></span></div>
<p class="none" hidden>No runs here yet. <code>mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first</code> makes one.</p>
<div class="run"></div>`;

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
  open(answer.runs.includes(run) ? run : answer.runs[0] ?? "");
}

async function open(name) {
  find("select").value = run = name;
  find("label").hidden = !run;
  find(".none").hidden = Boolean(run);
  find(".run").innerHTML = (run && await ask(`Opening ${run} …`, "run", run))?.html ?? "";
  all("[data-metric]").forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
}

async function items(offset = 0) {
  const {benchmark, group, metric, strategy} = figure, {cause = "any", visibility = "any", side = "any"} = filters;
  const answer = await ask("Looking for items …", "items", run, benchmark, group, metric, strategy, cause, visibility, side, offset);
  if (!answer) return;
  const place = find(".items"), field = document.activeElement?.closest(".items select")?.name;
  if (offset) find(".cards").insertAdjacentHTML("beforeend", answer.html);
  else place.innerHTML = answer.html;
  shown = answer.shown;
  find("output").textContent = `${shown} of ${answer.total}`;
  find(".next").hidden = shown >= answer.total;
  if (offset) all("[data-call]")[offset].focus();
  else find(field ? `[name="${field}"]` : ".items h2").focus({preventScroll: true});
  if (!offset && !field) place.scrollIntoView();
}

async function compare({setup, image, columns, model, notes}) {
  const [kind, data] = image.split(";base64,"), bytes = data && Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const file = data && new File([bytes], "picture", {type: kind.slice(5)});
  if (!await load(file ? {...setup, picture: {file}} : setup)) return;  // answers never stand beside another picture
  const here = state.about.model.name;
  show(columns, [...notes, ...(model === here ? [] : [`${model} gave these answers; here ${here} answers.`])].join(" "));
}

// Arrow keys walk the figures of the table, which has one tab stop.
function walk(event) {
  const cell = event.target.closest("[data-metric]");
  const [across, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] || [];
  if (!cell || across === undefined) return;
  const rows = all("tbody tr").map(row => [...row.querySelectorAll("[data-metric]")]).filter(row => row.length);
  const y = rows.findIndex(row => row.includes(cell)), next = rows[y + down]?.[rows[y].indexOf(cell) + across];
  event.preventDefault();
  if (next) [cell.tabIndex, next.tabIndex] = [-1, 0];
  next?.focus();
}

section.addEventListener("open", () => { if (!run) list(); });
section.addEventListener("keydown", walk);
section.addEventListener("change", ({target: {name, value}}) => {
  if (name) { filters[name] = value; items(); } else open(value);
});
section.addEventListener("click", ({target}) => {
  const cell = target.closest("[data-metric]");
  if (target.closest(".again")) list();
  if (target.closest(".next")) items(shown);
  if (!cell) return;
  all("[data-metric]").forEach(other => other.setAttribute("aria-pressed", other === cell));
  [figure, filters] = [cell.dataset, {}];
  items();
});
section.addEventListener("toggle", async ({target}) => {
  const place = target.querySelector(".more");
  if (target.open && place && !place.innerHTML) place.innerHTML = (await ask("Computing every table …", "tables", run))?.html ?? "";
}, true);
$("examples").addEventListener("open", async ({target}) => { target.innerHTML ||= (await call("examples").catch(problem))?.html ?? ""; });
for (const place of [section, $("examples")])
  place.addEventListener("click", async ({target}) => {
    const button = target.closest("[data-call]"), answer = button && await ask("Opening …", ...JSON.parse(button.dataset.call));
    if (answer) compare(answer);
  });
