// Words of answers, drawn from column records: objects, marks, risk, and what differs from the first answer.
// The page and the notebook use this file unchanged. Answers enter the document as text only.

// Same words of two answers in order, and, between them, words that stand in each other's place.
// Returns for every word of `own` its place in `first` (-1: none), and whether the two are equal.
function pairWords(first, own) {
  const same = (i, j) => first[i].text.toLowerCase() === own[j].text.toLowerCase();
  const longest = Array.from({length: first.length + 1}, () => new Uint16Array(own.length + 1));
  for (let i = first.length - 1; i >= 0; i--)
    for (let j = own.length - 1; j >= 0; j--)
      longest[i][j] = same(i, j) ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const place = own.map(() => -1), equal = own.map(() => false);
  let i = 0, j = 0, gap = [0, 0];
  const bridge = () => { for (let [x, y] = gap; x < i && y < j; x++, y++) place[y] = x; };
  while (i < first.length && j < own.length) {
    if (same(i, j)) { bridge(); place[j] = i; equal[j] = true; gap = [++i, ++j]; }
    else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  [i, j] = [first.length, own.length];
  bridge();
  return {place, equal};
}

// Rows of sentences: a sentence stands beside the one of the first answer with which it shares most words.
function rowsOf(first, own, {place, equal}) {
  const votes = [], rows = [];
  own.forEach((word, j) => {
    votes[word.sentence] ??= [];
    if (equal[j]) votes[word.sentence].push(first[place[j]].sentence);
  });
  for (let s = 0, row = 0; s < votes.length; s++) {
    const voted = votes[s] || [], count = row => voted.filter(other => other === row).length;
    row = Math.max(row, voted.reduce((best, other) => (count(other) > count(best) ? other : best), voted[0] ?? row));
    rows.push(row);
  }
  return rows;
}

// Aligns answers with the first one. Returns for each: `place` (its words' places in the first answer), `same` (words
// that the others share), `fork` (the first word that the other does not have there; -1: none), `rows` (of sentences).
export function align(records) {
  const answers = records.map(record => record?.words || []), [first = []] = answers;
  const forkOf = (own, other) => own.findIndex((word, i) => word.text !== other[i]?.text);
  const aligned = answers.map((own, k) => {
    const pairs = k ? pairWords(first, own) : {place: own.map((_, i) => i), equal: own.map(() => true)};
    return {place: pairs.place, same: pairs.equal, fork: forkOf(own, first), rows: rowsOf(first, own, pairs)};
  });
  const others = aligned.filter((_, k) => k && answers[k].length);
  if (others.length) {
    aligned[0].same = first.map((_, i) => others.every(other => other.same[other.place.indexOf(i)]));
    const forks = answers.slice(1).filter(own => own.length).map(own => forkOf(first, own)).filter(i => i >= 0);
    aligned[0].fork = forks.length ? Math.min(...forks) : -1;
  } else if (first.length) aligned[0].same = first.map(() => false);
  return aligned;
}

// The word of column `to` that stands where word `index` of column `from` stands; -1: none.
export const twin = (aligned, from, index, to) =>
  from === to ? index : aligned[to].place.indexOf(aligned[from].place[index] < 0 ? NaN : aligned[from].place[index]);

// How doubtful a word is, 0 to 1, by one signal: "gain" and "entropy" in nats, on scales equal for all answers;
// "share" relative to `top`, the largest share.
export function riskOf(word, signal, top = 1) {
  const value = word[signal];
  if (value == null) return 0;
  const risk = {gain: 1 - value / 2, entropy: value / 2, share: 1 - value / top}[signal] ?? 0;
  return Math.max(0, Math.min(1, risk));
}

const SPOKEN = {hallucinated: "made up", supported: "in the picture", unknown: "not known whether in the picture"};

// Draws the words of a record as a list with one tab stop, in which arrow keys walk.
// `on.hover(index)` hears of the word under pointer or focus, `on.leave()` of the end, `on.pin(index)` of click or Enter.
export function drawColumn(element, record, aligned, on = {}) {
  const {words} = record, cells = new Map(), nodes = [], letters = [...record.text];
  const part = (start, end) => letters.slice(start, end).join("");  // places count characters, not UTF-16 units
  const make = (parent, name, role) => {
    const node = parent.appendChild(document.createElement("span"));
    node.className = name;
    node.setAttribute("role", role);
    return node;
  };
  const cellOf = sentence => {
    const row = aligned.rows[sentence];
    if (!cells.has(row)) {
      cells.set(row, make(element, "mm-cell", "group"));
      cells.get(row).style.gridRow = row + 1;
      cells.get(row).setAttribute("aria-label", `sentence ${sentence + 1}`);
    }
    return cells.get(row);
  };
  element.replaceChildren();
  element.classList.add("mm-words");
  element.setAttribute("role", "listbox");
  element.setAttribute("aria-label", `Words of ${record.strategy}`);
  let at = 0, mention = null;
  words.forEach((word, i) => {
    const goesOn = mention && word.object && !word.head, cell = cellOf(word.sentence);
    const before = cells.get(aligned.rows[words[i - 1]?.sentence]) || cell;
    (goesOn ? mention : before).append(part(at, word.start));
    if (!goesOn) mention = word.mark ? make(cell, `mm-object mm-${word.mark}`, "presentation") : null;
    const node = make(mention || cell, "mm-word", "option");
    node.classList.toggle("mm-same", Boolean(aligned.same[i]));
    node.classList.toggle("mm-fork", aligned.fork === i);
    node.textContent = part(word.start, word.end);
    node.setAttribute("aria-selected", "false");
    node.setAttribute("aria-label", SPOKEN[word.mark] ? `${word.text}, ${SPOKEN[word.mark]}` : word.text);
    node.tabIndex = i ? -1 : 0;
    node.dataset.word = i;
    nodes.push(node);
    at = word.end;
  });
  (cells.get(aligned.rows[words.at(-1)?.sentence]) || element).append(part(at));
  const index = event => nodes.indexOf(event.target.closest?.(".mm-word"));
  const told = (name, event) => { const i = index(event); if (i >= 0) on[name]?.(i); };
  element.onpointerover = event => told("hover", event);
  element.onpointerleave = () => on.leave?.();
  element.onclick = event => told("pin", event);
  nodes.forEach((node, i) => {
    node.onfocus = () => {
      nodes.forEach(other => { other.tabIndex = other === node ? 0 : -1; });
      on.hover?.(i);
    };
  });
  element.onkeydown = event => {
    const i = index(event), {key} = event;
    const goal = {ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: nodes.length - 1}[key];
    if (key === "Enter" || key === " ") told("pin", event);
    else if (goal === undefined || i < 0) return;
    else nodes[Math.max(0, Math.min(nodes.length - 1, goal))].focus({preventScroll: false});
    event.preventDefault();
  };
  element.oncopy = event => {  // the answer's own text, without line breaks between sentences that only lay it out
    const chosen = words.filter((_, i) => getSelection().containsNode(nodes[i], true));
    if (!chosen.length) return;
    const whole = chosen.length === words.length;
    event.clipboardData.setData("text/plain", whole ? record.text : part(chosen[0].start, chosen.at(-1).end));
    event.preventDefault();
  };
}

// Gives the words at `indices`, and no others, a class such as "pinned", "twin" or "lit".
export function markWords(element, kind, indices) {
  element.querySelectorAll(`.mm-${kind}`).forEach(node => node.classList.remove(`mm-${kind}`));
  for (const index of indices) {
    const node = element.querySelector(`[data-word="${index}"]`);
    node?.classList.add(`mm-${kind}`);
  }
}

// Underlines words by numbers from 0 (nothing) to 1.
export function underline(element, risks) {
  element.querySelectorAll(".mm-word").forEach((node, i) => node.style.setProperty("--risk", (risks[i] || 0).toFixed(2)));
}
