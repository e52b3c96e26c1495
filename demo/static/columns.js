// The columns: a head that is the picker of the strategy, its changed options, the answer, and what it comes to.

import {call} from "./api.js";
import {align, drawColumn, markWords, riskOf, twin, underline} from "./display/words.js";
import {$, make} from "./dom.js";
import {change, emit, on, point, problem, stale, state} from "./page.js";

let places = [], drawn = [], sections = [];
export const aligned = () => places;
const LETTERS = "ABCD", WAITS = {waiting: "waiting", reading: "reading the picture", writing: ""};

// A specification as its parts, "vcd(alpha=0.5)+vhr" as [{name: "vcd", options: ["alpha=0.5"]}, {name: "vhr", options: []}].
export function parse(spec) {
  const parts = [{name: "", options: []}];
  let depth = 0, quoted = "", option = "";
  for (const letter of spec) {
    if (quoted) quoted = letter === quoted ? "" : quoted;
    else if (letter === "'" || letter === '"') quoted = letter;
    const last = parts.at(-1), free = !quoted;
    if (free && letter === "(" && !depth++) continue;
    if (free && letter === "[") depth++;
    if (free && (letter === ")" || letter === "]")) depth--;
    if (free && depth === 0 && letter === "+") parts.push({name: "", options: []});
    else if (free && ((depth === 0 && letter === ")") || (depth === 1 && letter === ","))) { if (option.trim()) last.options.push(option.trim()); option = ""; }
    else if (depth) option += letter;
    else last.name += letter;
  }
  return parts;
}
const write = parts => parts.filter(part => part.name).map(({name, options}) => options.length ? `${name}(${options.join(", ")})` : name).join("+");

function setSpec(k, spec) {
  const strategies = [...state.setup.strategies];
  strategies[k] = spec;
  change({strategies});
}

function remove(k) {
  const without = list => list.filter((_, i) => i !== k);
  state.records = without(state.records);
  if (state.answered) state.answered.strategies = without(state.answered.strategies);
  Object.assign(state, {pinned: null, pointed: null});
  change({strategies: without(state.setup.strategies)});
  emit("answers");
}

// The list of strategies: type to find, arrow keys and Enter or a click choose.
function pick(anchor, chosen) {
  const offers = $("offers"), sought = $("sought"), box = anchor.getBoundingClientRect();
  let active = 0;
  const options = () => [...offers.querySelectorAll("[role=option]")];
  const mark = () => options().forEach((node, i) => {
    node.setAttribute("aria-selected", i === active);
    if (i === active) { sought.setAttribute("aria-activedescendant", node.id); node.scrollIntoView({block: "nearest"}); }
  });
  const take = name => { $("picker").hidePopover(); anchor.focus(); chosen(name); };
  const fill = () => {
    const words = sought.value.toLowerCase(), fits = one => `${one.name} ${one.line}`.toLowerCase().includes(words);
    let n = 0;
    offers.replaceChildren(...state.about.groups.map(group => [group, group.strategies.filter(fits)]).filter(([, some]) => some.length).map(([group, some]) =>
      make("div", {role: "group", "aria-label": group.title}, make("h3", {role: "presentation"}, group.title), ...some.map(one =>
        make("div", {role: "option", id: `offer-${n++}`, click: () => take(one.name)}, make("b", {}, one.name), make("i", {}, one.passes), make("span", {}, one.line))))));
    active = 0;
    mark();
  };
  sought.value = "";
  sought.oninput = fill;
  sought.onkeydown = event => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key], all = options();
    if (step) { active = Math.max(0, Math.min(all.length - 1, active + step)); mark(); event.preventDefault(); }
    if (event.key === "Enter" && all[active]) { all[active].click(); event.preventDefault(); }
  };
  $("picker").style.left = `${Math.max(8, Math.min(box.left, innerWidth - 460))}px`;
  $("picker").style.top = `${box.bottom + 4}px`;
  $("picker").showPopover();
  fill();
  sought.focus();
}

// The drawer: every option of a column's strategy with default, bounds and source, and the settings of all answers.
async function drawer(k) {
  const body = $("drawer-body"), spec = state.setup.strategies[k];
  $("drawer-title").textContent = `Options of ${LETTERS[k]}`;
  if (!$("drawer").open) $("drawer").showModal();
  const told = make("p", {role: "alert", class: "bad"});
  const again = async next => {
    try { const {spec: made} = await call("options", next); setSpec(k, made || next); await drawer(k); }
    catch (error) { told.textContent = error.message; }
  };
  const text = make("input", {id: "spec", value: spec, spellcheck: "false", autocomplete: "off", change: event => again(event.target.value)});
  const setting = (name, label, bounds) => make("label", {}, label, make("input", {type: "number", value: state.setup[name], ...bounds, change: event => {
    if (event.target.reportValidity() && event.target.value !== "") change({[name]: Number(event.target.value)});
  }}));
  const {limits} = state.about;
  let fields = [], cards = [];
  try { ({fields, cards = []} = await call("options", spec)); } catch (error) { told.textContent = error.message; }
  const parts = parse(spec);
  body.replaceChildren(make("label", {class: "wide"}, "written out", text), told, ...fields.map(field => make("label", {class: field.value === field.default ? "" : "changed"},
    make("b", {}, parts.length > 1 ? `${field.strategy}: ${field.option}` : field.option), input(field, value => {
      const part = parts.find(one => one.name === field.strategy) || parts[0];
      part.options = [...part.options.filter(one => !one.startsWith(`${field.option}=`)), ...(value === "" ? [] : [`${field.option}=${value}`])];
      again(write(parts));
    }), make("small", {}, [field.help, field.allowed, `default ${field.default}`, field.source].filter(Boolean).join(" · ")))),
    make("h3", {}, "All answers"), setting("max_new_tokens", "at most tokens", {min: 1, max: limits.max_new_tokens ?? 512}),
    setting("temperature", "temperature (0: likeliest token)", {min: 0, max: limits.temperature ?? 2, step: 0.1}), setting("seed", "seed", {min: 0}),
    ...cards.map(({name, title, sections}) => make("section", {}, make("h3", {}, `${name}: ${title}`), ...Object.entries(sections).map(([about, text]) => make("p", {class: "small"}, make("b", {}, about), ` ${text}`)))));
}

function input(field, set) {
  const say = event => set(event.target.value), value = field.value ?? "";
  const choices = field.kind === "bool" ? ["True", "False"] : field.kind === "choice" ? field.choices : [];
  if (choices.length) return make("select", {change: say}, ...choices.map(one => make("option", {value: typeof one === "string" && field.kind !== "bool" ? JSON.stringify(one) : one, selected: String(one).toLowerCase() === String(value).toLowerCase()}, String(one))));
  const number = field.kind === "integer" || field.kind === "number";
  return make("input", {type: number ? "number" : "text", step: field.kind === "integer" ? 1 : "any", min: number ? field.low : null, max: number ? field.high : null, value,
    change: event => { if (event.target.reportValidity()) set(number || event.target.value === "" ? event.target.value : quoted(event.target.value)); }});
}
const quoted = text => (/^(\[.*\]|\(.*\)|[\d.eE+-]+|None|True|False)$/.test(text) ? text : JSON.stringify(text));

function head(k) {
  const spec = state.setup.strategies[k], parts = parse(spec), last = k === state.setup.strategies.length - 1;
  const drop = (part, option) => () => { part.options = part.options.filter(one => one !== option); setSpec(k, write(parts)); };
  return make("header", {},
    make("div", {class: "row"}, make("b", {class: "letter"}, LETTERS[k]),
      make("button", {type: "button", class: "pick", "aria-haspopup": "listbox", "aria-label": `Strategy ${LETTERS[k]}: ${spec}; choose another`, click: event => pick(event.currentTarget, name => setSpec(k, name))}, make("span", {}, parts.map(part => part.name).join(" + ")), " ▾"),
      make("button", {type: "button", class: "quiet", click: event => pick(event.currentTarget, name => setSpec(k, `${spec}+${name}`)), title: "use another strategy as well"}, "+ combine"),
      make("button", {type: "button", class: "quiet", click: () => drawer(k)}, "options"),
      last && k < 3 ? make("button", {type: "button", class: "quiet", "aria-label": "Add a column", title: "add a column", click: event => pick(event.currentTarget, name => setSpec(k + 1, name))}, "+") : null,
      k || !last ? make("button", {type: "button", class: "quiet", "aria-label": `Remove column ${LETTERS[k]}`, click: () => remove(k)}, "✕") : null),
    make("div", {class: "row options"}, ...parts.flatMap(part => [
      ...(parts.length > 1 ? [make("button", {type: "button", class: "chip", "aria-label": `Without ${part.name}`, click: () => setSpec(k, write(parts.filter(one => one !== part)))}, `${part.name} ✕`)] : []),
      ...part.options.map(option => make("button", {type: "button", class: "chip", "aria-label": `${option}: back to the default`, click: drop(part, option)}, `${option} ✕`))])));
}

// What an answer comes to: objects, cost, and how it ended.
export function foot(record) {
  const {objects, known, verdict} = record, say = [];
  const add = (kind, text, title) => say.push(make("span", {class: kind, title}, text));
  if (record.state === "failed") add("bad", `No answer: ${record.error}`);
  if (record.state === "cut") add("warn", "cut at the limit of tokens", "what comes after was not written, so it cannot be called clean");
  if (record.state === "stopped") add("warn", "stopped", "what comes after was not written, so it cannot be called clean");
  if (verdict) add(verdict.right == null ? "" : verdict.right ? "good" : "bad", verdict.right == null ? (verdict.says ? `says ${verdict.says}; truth not known` : "neither yes nor no") : verdict.right ? `${verdict.says}: right` : `${verdict.says || "neither yes nor no"}: wrong, it is ${verdict.truth}`);
  else if (objects && record.words) {
    const made = objects.made_up.length;
    if (known != null) add(made ? "bad" : record.state === "done" ? "good" : "", made ? `${made} made up: ${objects.made_up.join(", ")}` : record.state === "done" ? "nothing made up" : "nothing made up so far");
    if (known != null) add("", `named ${objects.named.length - made - objects.unknown.length} of ${known}`, objects.missing.length ? `not named: ${objects.missing.join(", ")}` : "");
    if (objects.unknown.length) add("", `${objects.unknown.length} not known: ${objects.unknown.join(", ")}`);
  }
  if (record.passes_per_token != null) add("", `${record.passes_per_token.toFixed(1)} passes/token`, "forward passes of the model for a token, on average");
  if (record.seconds) add("small", `${record.seconds.toFixed(1)} s`);
  return make("footer", {}, ...say);
}

function draw() {
  const {records, setup} = state, count = Math.max(setup.strategies.length, records.length);
  places = align(records);
  const rows = Math.max(1, ...places.flatMap(one => one.rows.map(row => row + 1)));
  $("columns").style.setProperty("--rows", rows);
  while (sections.length > count) { sections.pop().remove(); drawn.pop(); }
  for (let k = 0; k < count; k++) {
    const record = records[k], section = sections[k] ??= $("columns").appendChild(make("section", {"aria-label": `Column ${LETTERS[k]}`}));
    const key = `${JSON.stringify(record)} ${JSON.stringify(places.map(one => one.fork))} ${records.length}`;
    if (drawn[k]?.spec !== setup.strategies[k] || drawn[k].last !== (k === count - 1)) {
      const old = section.querySelector("header"), new_ = head(k);
      old ? old.replaceWith(new_) : section.prepend(new_);
    }
    if (drawn[k]?.key !== key) {
      const body = make("div", {class: "answer", dir: "auto"});
      if (record?.words?.length) drawColumn(body, record, places[k], {hover: word => point({column: k, word}), leave: () => point(null), pin: word => point({column: k, word}, true)});
      else body.append(record?.text || (record ? WAITS[record.state] ?? "" : ""));
      section.querySelector(".answer")?.remove();
      section.querySelector("footer")?.remove();
      section.append(body, record ? foot(record) : make("footer"));
    }
    drawn[k] = {spec: setup.strategies[k], last: k === count - 1, key};
    section.classList.toggle("stale", Boolean(record) && stale(k));
  }
  note();
  risks();
}

function note() {
  const {records, answered} = state, old = records.map((_, k) => stale(k));
  const which = old.every(Boolean) ? "these answers are" : `${old.flatMap((one, k) => one ? [LETTERS[k]] : []).join(", ")} is`;
  $("note").replaceChildren(...(records.length ? [state.note ? `${state.note} · ` : "", make("q", {}, records[0].prompt || answered.prompt), old.some(Boolean) ? make("b", {}, ` The set-up has changed: ${which} old. Run answers anew.`) : ""] : []));
}

function risks() {
  const signal = $("risk").value, all = state.records.flatMap(record => record.words || []);
  const top = Math.max(...all.map(word => word[signal] ?? 0), 1e-9);
  state.records.forEach((record, k) => { if (record.words) underline(sections[k].querySelector(".answer"), record.words.map(word => riskOf(word, signal, top))); });
}

function marks() {
  const place = state.pointed || state.pinned, {pinned} = state;
  state.records.forEach((record, k) => {
    if (!record.words || !sections[k]) return;
    const other = place && place.column !== k && places[place.column] ? twin(places, place.column, place.word, k) : -1;
    markWords(sections[k], "twin", other >= 0 ? [other] : []);
    markWords(sections[k], "pinned", pinned?.column === k ? [pinned.word] : []);
    sections[k].querySelectorAll(".mm-word").forEach((node, i) => {
      const chosen = pinned?.column === k && pinned.word === i, before = node.getAttribute("aria-selected") === "true";
      node.setAttribute("aria-selected", chosen);
      if (chosen && !before) requestAnimationFrame(() => node.scrollIntoView({block: "nearest", inline: "nearest"}));  // the card stands by then
    });
  });
}

// Lights words of every column, such as those that looked into a rectangle.
export const light = indices => sections.forEach((section, k) => markWords(section, "lit", indices[k] || []));

on("about", () => {
  $("risk").replaceChildren(make("option", {value: ""}, "nothing"), ...state.about.signals.map(signal => make("option", {value: signal.name, title: signal.hint}, signal.label)));
  $("risk").value = "entropy";
  $("risk").onchange = risks;
  $("drawer-close").onclick = () => $("drawer").close();
  $("drawer").onclick = event => { if (event.target === $("drawer")) $("drawer").close(); };
});
for (const name of ["setup", "answers", "running"]) on(name, draw);
for (const name of ["answers", "word"]) on(name, marks);
