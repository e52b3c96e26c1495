// The prompt with its presets, Run that becomes Stop, and the probe: questions about single objects.

import {call, follow} from "./api.js";
import {$, make, rove} from "./dom.js";
import {change, emit, on, problem, run, state, stop} from "./page.js";

const fit = () => { $("prompt").style.height = "auto"; $("prompt").style.height = `${Math.min(120, $("prompt").scrollHeight + 2)}px`; };

function button() {
  const {running} = state;
  $("run").classList.toggle("running", Boolean(running));
  $("run").firstChild.textContent = running ? "Stop" : "Run";
  $("run").lastChild.textContent = running?.said || "";
  const failed = state.records.some(record => record.state === "failed");
  $("state").textContent = running ? running.said.replace(/^\d+ tokens?$/, "writing") : state.records.length ? (failed ? "Done; an answer failed" : "Answers are there") : "";
}

let asking = 0;
async function offers() {
  const mine = ++asking;
  const got = await call("presets", state.setup).catch(error => { problem(error); return {presets: [], ask: []}; });
  if (mine !== asking) return;
  state.offers = got;
  emit("offers");
  const tab = index => (index ? -1 : 0);
  $("presets").replaceChildren(...got.presets.map(({label, prompt}, i) => make("button", {type: "button", class: "chip", title: prompt, tabindex: tab(i),
    click: () => { change({prompt}); $("prompt").focus(); }}, label)));
  probeRow(got.ask);
}

function probeRow(names) {
  const chips = names.map((name, i) => make("button", {type: "button", class: "chip", "aria-pressed": "true", tabindex: i ? -1 : 0,
    click: event => event.currentTarget.setAttribute("aria-pressed", event.currentTarget.getAttribute("aria-pressed") !== "true")}, name));
  const field = make("input", {placeholder: "+ …", "aria-label": "Ask about another object", maxlength: 40, size: 8, autocomplete: "off", keydown: event => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!field.value.trim()) return ask();
    probeRow([...chosen(), field.value.trim()]);
    $("probe").querySelector("input").focus();
  }});
  const chosen = () => chips.filter(chip => chip.getAttribute("aria-pressed") === "true").map(chip => chip.textContent);
  const ask = () => probe([...chosen(), ...(field.value.trim() ? [field.value.trim()] : [])]);
  $("probe").replaceChildren("ask about", ...chips, field, make("button", {type: "button", class: "quiet", click: ask}, "Ask"));
}

async function probe(objects) {
  const {picture, strategies, present, absent} = state.setup;
  problem("");
  try {
    table(await follow("probe", [picture, objects, strategies, present, absent], {rank: () => $("probed").replaceChildren("asking …"), grow: table}));
  } catch (error) { $("probed").replaceChildren(); problem(error); }
}

function table(data) {
  const percent = share => share == null ? "" : ` ${share > 0 && share < 0.01 ? "<1" : share < 1 && share > 0.99 ? ">99" : Math.round(100 * share)} %`;
  const unknown = name => data.unknown_words?.includes(name);
  const truth = ({name, present}) => unknown(name) ? "a word the model does not know" : present == null ? "truth not known" : present ? "in the picture" : "not in it";
  const cell = answer => {
    if (!answer) return make("td", {}, "…");
    const judged = answer.right == null ? "" : answer.right ? "right" : "wrong";
    return make("td", {class: judged, title: answer.text}, `${{right: "✓ ", wrong: "✗ "}[judged] || ""}${answer.says || "neither"}${percent(answer.yes_probability)}`,
      judged ? make("span", {class: "unseen"}, ` (${judged})`) : null);
  };
  $("probed").replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "Is there a …"), ...data.objects.map(object => make("th", {scope: "col"}, object.name, make("small", {}, truth(object)))), make("th", {scope: "col"}, "right"))),
    make("tbody", {}, ...data.strategies.map(row => make("tr", {}, make("th", {scope: "row"}, row.strategy),
      ...(row.error ? [make("td", {colspan: data.objects.length}, row.error)] : data.objects.map((_, i) => cell(row.answers[i]))),
      make("td", {}, row.known ? `${row.right} of ${row.known}` : "–"))))),
    make("button", {type: "button", class: "quiet", "aria-label": "Close the table", click: () => $("probed").replaceChildren()}, "✕"));
}

for (const id of ["presets", "probe"]) rove($(id));
$("prompt").oninput = () => change({prompt: $("prompt").value});
$("prompt").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); run(); }
};
$("ask").onsubmit = event => {
  event.preventDefault();
  if (state.running) return stop();
  run();
  if (matchMedia("(max-width: 860px)").matches) $("bar").scrollIntoView({block: "start"});
};
on("setup", part => {
  if ($("prompt").value !== state.setup.prompt) $("prompt").value = state.setup.prompt;
  fit();
  if ("picture" in part || "present" in part) offers();
  if ("picture" in part) $("probed").replaceChildren();
});
const model = () => {
  const {name, state: now, parameters, error} = state.about.model;
  $("model").textContent = now === "ready" ? `${name} · ${(parameters / 1e6).toFixed(1)} M parameters` : now === "failed" ? `${name} could not be loaded: ${error || ""}` : `loading ${name} …`;
};
for (const name of ["about", "model"]) on(name, model);
for (const name of ["running", "answers"]) on(name, button);
