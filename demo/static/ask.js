// The prompt with its presets, Run that becomes Stop, and the probe: questions about single objects.

import {call, follow} from "./api.js";
import {$, make, rove} from "./dom.js";
import {change, emit, on, problem, run, state, stop} from "./page.js";

function button() {
  const {running, records} = state;
  $("run").classList.toggle("running", Boolean(running));
  $("run").firstChild.textContent = running ? "Stop" : "Run";
  $("run").lastChild.textContent = running?.said || "";
  const ended = records.some(record => record.state === "failed") ? "Done; an answer failed" : "Answers are there";
  const heard = running ? running.said.replace(/^\d+ tokens?$/, "writing") : records.length ? ended : "";
  if ($("state").textContent !== heard) $("state").textContent = heard;
}

const chip = (i, attributes, label) => make("button", {type: "button", class: "chip", tabindex: i ? -1 : 0, ...attributes}, label);

let asking = 0;  // only the last answer counts
async function offers() {
  const mine = ++asking, got = await call("presets", state.setup).catch(error => { problem(error); return {presets: [], ask: []}; });
  if (mine !== asking) return;
  state.offers = got;
  emit("offers");
  $("presets").replaceChildren(...got.presets.map(({label, prompt}, i) =>
    chip(i, {title: prompt, click: () => { change({prompt}); $("prompt").focus(); }}, label)));
  probeRow(got.ask);
}

function probeRow(names) {
  const toggle = ({currentTarget: one}) => one.setAttribute("aria-pressed", one.getAttribute("aria-pressed") !== "true");
  const chips = names.map((name, i) => chip(i, {"aria-pressed": "true", click: toggle}, name));
  const chosen = () => chips.filter(one => one.getAttribute("aria-pressed") === "true").map(one => one.textContent);
  const ask = () => probe([...chosen(), field.value.trim()].filter(Boolean));
  const field = make("input", {
    placeholder: "+ …", "aria-label": "Ask about another object", maxlength: 40, size: 8, autocomplete: "off",
    keydown: event => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (!field.value.trim()) return ask();
      probeRow([...chosen(), field.value.trim()]);
      $("probe").querySelector("input").focus();
    },
  });
  $("probe").replaceChildren("ask about", ...chips, field, make("button", {type: "button", class: "quiet", click: ask}, "Ask"));
}

let probing = 0;  // a table that nobody waits for any more is not shown
function closeTable() {
  probing++;
  $("probed").replaceChildren();
}

async function probe(objects) {
  const mine = ++probing, grow = got => { if (mine === probing) table(got); };
  const {picture, strategies, present, absent} = state.setup;
  problem("");
  $("probed").replaceChildren("asking …");
  try {
    grow(await follow("probe", [picture, objects, strategies, present ?? null, absent ?? null], {grow}));
  } catch (error) {
    if (mine === probing) closeTable();
    problem(error);
  }
}

function percent(share) {
  if (share == null) return "";
  return share > 0 && share < 0.01 ? " <1 %" : share < 1 && share > 0.99 ? " >99 %" : ` ${Math.round(100 * share)} %`;
}

function table({objects, strategies, unknown_words: unknown = []}) {
  const truth = ({name, present}) => unknown.includes(name) ? "a word the model does not know"
    : present == null ? "truth not known" : present ? "in the picture" : "not in it";
  const column = object => make("th", {scope: "col"}, object.name, make("small", {}, truth(object)));
  const cell = answer => {
    if (!answer) return make("td", {}, "…");
    const judged = answer.right == null ? "" : answer.right ? "right" : "wrong", sign = {right: "✓ ", wrong: "✗ "}[judged] || "";
    return make("td", {class: judged, title: answer.text}, `${sign}${answer.says || "neither"}${percent(answer.yes_probability)}`,
      judged ? make("span", {class: "unseen"}, ` (${judged})`) : null);
  };
  const row = one => make("tr", {}, make("th", {scope: "row"}, one.strategy),
    ...(one.error ? [make("td", {colspan: objects.length}, one.error)] : objects.map((_, i) => cell(one.answers[i]))),
    make("td", {}, one.known ? `${one.right} of ${one.known}` : "–"));
  const heads = [make("th", {scope: "col"}, "Is there a …"), ...objects.map(column), make("th", {scope: "col"}, "right")];
  $("probed").replaceChildren(
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...strategies.map(row))),
    make("button", {type: "button", class: "quiet", "aria-label": "Close the table", click: closeTable}, "✕"));
}

function model() {
  const {name, state: now, parameters, error} = state.about.model;
  const size = `${name} · ${(parameters / 1e6).toFixed(1)} M parameters`;
  $("model").textContent = now === "ready" ? size : now === "failed" ? error : "loading the model …";
}

for (const id of ["presets", "probe"]) rove($(id));
$("prompt").oninput = () => change({prompt: $("prompt").value});
$("prompt").onkeydown = event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  run();
};
$("run").onclick = event => { if (event.detail > 1) event.preventDefault(); };  // a double click does not run and stop
$("ask").onsubmit = event => {
  event.preventDefault();
  if (state.running) return stop();
  run();
  if (matchMedia("(max-width: 860px)").matches) $("bar").scrollIntoView({block: "start"});
};
on("setup", part => {
  const field = $("prompt");
  if (field.value !== state.setup.prompt) field.value = state.setup.prompt;
  field.style.height = "auto";
  field.style.height = `${Math.min(120, field.scrollHeight + 2)}px`;
  if ("picture" in part || "present" in part) offers();
  if ("picture" in part || "present" in part || "absent" in part) closeTable();  // judged by what was known before
});
for (const name of ["about", "model"]) on(name, model);
for (const name of ["running", "answers"]) on(name, button);
