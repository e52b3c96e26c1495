// One tab stop a column; arrow keys move between words, Enter, Space or a click chooses one.
const chosen = {}, stops = {};
let focused = null;
const words = column => [...element.querySelectorAll(`.mm-word[data-column="${column}"]`)];
const at = (column, word) => element.querySelector(`.mm-word[data-column="${column}"][data-word="${word}"]`);
const place = node => ({column: +node.dataset.column, word: +node.dataset.word});
function paint() {
  for (const column of new Set([...element.querySelectorAll('.mm-word')].map(node => node.dataset.column))) {
    const own = words(column), stop = at(column, stops[column]) || own[0];
    for (const node of own) {
      node.tabIndex = node === stop ? 0 : -1;
      node.setAttribute('aria-selected', String(chosen.column === +column && chosen.word === +node.dataset.word));
    }
  }
  if (focused) {
    const node = at(focused.column, focused.word);
    if (node && document.activeElement !== node) node.focus({preventScroll: true});
  }
}
function choose(column, word) { Object.assign(chosen, {column, word}); stops[column] = word; paint(); }
window.mmhallWord = word => { if (chosen.column !== undefined) choose(chosen.column, word); };
function pick(node) { const {column, word} = place(node); choose(column, word); trigger('select', {column, word}); }
element.addEventListener('click', event => {
  const node = event.target.closest('.mm-word');
  if (node) { pick(node); node.focus(); }
});
element.addEventListener('keydown', event => {
  const node = event.target.closest('.mm-word');
  if (!node) return;
  const {column} = place(node), own = words(column), index = own.indexOf(node);
  const next = {ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: own.length - 1}[event.key];
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); pick(node); }
  else if (next !== undefined) {
    const goal = own[Math.max(0, Math.min(own.length - 1, next))];
    event.preventDefault();
    stops[column] = +goal.dataset.word;
    focused = place(goal);
    paint();
  }
});
element.addEventListener('focusin', event => { const node = event.target.closest('.mm-word'); if (node) focused = place(node); });
element.addEventListener('focusout', event => { if (event.relatedTarget) focused = null; });
document.addEventListener('pointerdown', event => { if (!element.contains(event.target)) focused = null; });
watch('value', () => { if (!element.querySelector('.mm-word')) { delete chosen.column; delete chosen.word; } paint(); });
paint();
