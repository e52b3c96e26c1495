// Small helpers to build the page. Texts enter it as text, never as HTML.

export const $ = id => document.getElementById(id);

// Makes an element; attributes whose value is a function are listeners, null and false ones are left out;
// `--value` sets a property of its style.
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

// One tab stop for a group of buttons: arrow keys move the focus, and choose where `choose` says so.
export function rove(group, choose = false) {
  group.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const buttons = [...group.querySelectorAll("button:not([disabled])")], at = buttons.indexOf(event.target);
    if (!step || at < 0) return;
    const goal = buttons[(at + step + buttons.length) % buttons.length];
    buttons.forEach(button => { button.tabIndex = button === goal ? 0 : -1; });
    goal.focus();
    if (choose) goal.click();
    event.preventDefault();
  });
}
