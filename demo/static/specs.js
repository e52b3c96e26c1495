// Strategies of the columns: their specifications, the list to choose from, and the drawer of options.

import {call} from "./api.js";
import {$, make} from "./dom.js";
import {change, on, state} from "./page.js";

// A specification as its parts: "vcd(alpha=0.5)+vhr" is [{name: "vcd", options: ["alpha=0.5"]}, {name: "vhr", options: []}].
// Commas and plus signs in brackets and quotes separate nothing.
export function parse(spec) {
  const split = (text, mark) => {
    const parts = [""];
    let depth = 0, quote = "";
    for (const letter of text) {
      if (quote ? letter === quote : "'\"".includes(letter)) quote = quote ? "" : letter;
      else if (!quote && "([{".includes(letter)) depth++;
      else if (!quote && ")]}".includes(letter)) depth--;
      if (letter === mark && !quote && !depth) parts.push("");
      else parts[parts.length - 1] += letter;
    }
    return parts.map(part => part.trim()).filter(Boolean);
  };
  return split(spec, "+").map(part => {
    const [, name, options = ""] = part.match(/^([^(]*)(?:\((.*)\))?$/s) || ["", part];
    return {name, options: split(options, ",")};
  });
}

export const write = parts =>
  parts.map(({name, options}) => (options.length ? `${name}(${options.join(", ")})` : name)).join("+");

export function setSpec(k, spec) {
  const strategies = [...state.setup.strategies];
  strategies[k] = spec;
  change({strategies});
}

// Opens the list of strategies below a button: type to find one; arrow keys and Enter, or a click, choose.
export function pick(button, chosen) {
  const offers = $("offers"), sought = $("sought"), box = button.getBoundingClientRect();
  let active = 0;
  const options = () => [...offers.querySelectorAll("[role=option]")];
  const mark = () => options().forEach((node, i) => {
    node.setAttribute("aria-selected", i === active);
    if (i !== active) return;
    sought.setAttribute("aria-activedescendant", node.id);
    node.scrollIntoView({block: "nearest"});
  });
  const take = name => { $("picker").hidePopover(); button.focus(); chosen(name); };
  const fill = () => {
    const words = sought.value.toLowerCase(), fits = ({name, line}) => `${name} ${line}`.toLowerCase().includes(words);
    const option = ({name, passes, line}) => make("div", {role: "option", id: `offer-${name}`, click: () => take(name)},
      make("b", {}, name), make("i", {}, passes), make("span", {}, line));
    const groups = state.about.groups.map(({title, strategies}) => [title, strategies.filter(fits)]);
    offers.replaceChildren(...groups.filter(([, some]) => some.length).map(([title, some]) =>
      make("div", {role: "group", "aria-label": title}, make("h3", {role: "presentation"}, title), ...some.map(option))));
    active = 0;
    mark();
  };
  sought.value = "";
  sought.oninput = fill;
  sought.onkeydown = event => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key], all = options();
    if (!step && event.key !== "Enter") return;
    event.preventDefault();
    if (!step) return all[active]?.click();
    active = Math.max(0, Math.min(all.length - 1, active + step));
    mark();
  };
  $("picker").style.left = `${Math.max(8, Math.min(box.left, innerWidth - 460))}px`;
  $("picker").style.top = `${box.bottom + 4}px`;
  $("picker").showPopover();
  fill();
  sought.focus();
}

// Opens the drawer: the options of a column's strategy with default, bounds and source, and the settings of all answers.
export async function drawer(k) {
  const spec = state.setup.strategies[k], {limits} = state.about, told = make("p", {role: "alert", class: "bad"});
  const again = async next => {
    try {
      setSpec(k, (await call("options", next)).spec);
      await drawer(k);
    } catch (error) { told.textContent = error.message; }
  };
  const written = make("input", {id: "spec", value: spec, spellcheck: "false", autocomplete: "off",
    change: event => again(event.target.value)});
  const setting = (name, label, bounds) => make("label", {}, label, make("input", {
    type: "number", value: state.setup[name], ...bounds,
    change: ({target}) => { if (target.value !== "" && target.reportValidity()) change({[name]: Number(target.value)}); },
  }));
  $("drawer-title").textContent = `Options of ${"ABCD"[k]}`;
  if (!$("drawer").open) $("drawer").showModal();
  let fields = [], cards = [];
  try { ({fields, cards} = await call("options", spec)); } catch (error) { told.textContent = error.message; }
  $("drawer-body").replaceChildren(
    make("label", {class: "wide"}, "written out", written), told, ...fields.map(field => option(field, spec, again)),
    make("h3", {}, "All answers"), setting("max_new_tokens", "at most tokens", {min: 1, max: limits.max_new_tokens ?? 512}),
    setting("temperature", "temperature (0: likeliest token)", {min: 0, max: limits.temperature ?? 2, step: 0.1}),
    setting("seed", "seed", {min: 0}), ...cards.map(about));
}

const about = ({name, title, sections}) => make("section", {}, make("h3", {}, `${name}: ${title}`),
  ...Object.entries(sections).map(([head, text]) => make("p", {class: "small"}, make("b", {}, head), ` ${text}`)));

function option(field, spec, again) {
  const parts = parse(spec), part = parts.find(({name}) => name === field.strategy) || parts[0];
  const set = value => {
    part.options = part.options.filter(one => !one.startsWith(`${field.option}=`));
    if (value !== "") part.options.push(`${field.option}=${value}`);
    again(write(parts));
  };
  return make("label", {class: field.value === field.default ? "" : "changed"},
    make("b", {}, parts.length > 1 ? `${field.strategy}: ${field.option}` : field.option), input(field, set),
    make("small", {}, [field.help, field.allowed, `default ${field.default}`, field.source].filter(Boolean).join(" · ")));
}

// A value as a specification writes it: texts in quotes, unless they are numbers, lists or names of Python's constants.
const quoted = text => (/^(\[.*\]|\(.*\)|[\d.eE+-]+|None|True|False)$/.test(text) ? text : JSON.stringify(text));

function input({kind, value, choices, low, high}, set) {
  const offered = kind === "bool" ? ["True", "False"] : kind === "choice" ? choices : [];
  if (offered.length) return make("select", {change: event => set(quoted(event.target.value))}, ...offered.map(one =>
    make("option", {selected: String(one).toLowerCase() === String(value).toLowerCase()}, String(one))));
  const number = kind === "integer" || kind === "number";
  return make("input", {
    ...(number ? {type: "number", step: kind === "integer" ? 1 : "any", min: low, max: high} : {}), value,
    change: ({target}) => { if (target.reportValidity()) set(target.value && quoted(target.value)); },
  });
}

on("about", () => {
  $("drawer-close").onclick = () => $("drawer").close();
  $("drawer").onclick = event => { if (event.target === $("drawer")) $("drawer").close(); };
});
