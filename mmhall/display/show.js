// Draws the answers of a display: words, marks and, over the picture, where the model looked while it wrote a word.
// Follows words.js and gaze.js in one script; `root` holds the records as JSON. A pinned word stays when the pointer goes.
/* global align, clearHeat, drawColumn, drawHeat, markWords, peak, SPOKEN, twin, unpack */
// eslint-disable-next-line no-unused-vars
function show(root) {
  root.dataset.drawn = "";
  const {records, gazes} = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const looks = gazes.map(gaze => gaze && !gaze.error ? unpack(gaze) : null), top = peak(looks), aligned = align(records);
  const columns = [...root.querySelectorAll(".mm-answer")], canvas = root.querySelector("canvas");
  const said = root.querySelector(".mm-said"), invitation = said?.textContent;
  const percent = value => `${(100 * value).toFixed(0)} %`;
  let pinned = null;
  const look = (column, index) => {
    const word = records[column].words[index], gaze = looks[column];
    columns.forEach((element, k) => markWords(element, "twin", k === column ? [] : [twin(aligned, column, index, k)]));
    root.classList.toggle("mm-dim", Boolean(canvas && gaze));
    if (canvas && gaze) drawHeat(canvas, gaze.map(index), gaze.grid, gaze.box, top);
    const likely = (gaze?.candidates?.[word.tokens[0]] || []).map(({text, plain, strategy}) =>
      `${text.trim()} ${plain == null ? "" : percent(plain)}${strategy == null ? "" : ` → ${percent(strategy)}`}`);
    if (said) said.textContent = [
      `“${word.text}” of ${records[column].strategy}${SPOKEN[word.mark] ? `: ${SPOKEN[word.mark]}` : ""}`,
      word.gain == null ? "" : `the picture makes it likelier by ${word.gain.toFixed(2)} nats`,
      word.share == null ? "" : `${percent(word.share)} of attention on the picture`,
      word.entropy == null ? "" : `entropy ${word.entropy.toFixed(2)} nats`,
      likely.length ? `likeliest: ${likely.join(", ")}` : "",
      gazes[column]?.error ? `no map: ${gazes[column].error}` : "",
      canvas && gaze ? `deepest colour: ${(100 * top).toPrecision(2)} % of attention in one place` : "",
    ].filter(Boolean).join(" · ");
  };
  const leave = () => {
    if (pinned) return look(...pinned);
    columns.forEach(element => markWords(element, "twin", []));
    root.classList.remove("mm-dim");
    if (canvas) clearHeat(canvas);
    if (said) said.textContent = invitation;
  };
  columns.forEach((element, column) => drawColumn(element, records[column], aligned[column], {
    hover: index => look(column, index),
    leave,
    pin: index => {
      pinned = pinned?.[0] === column && pinned[1] === index ? null : [column, index];
      columns.forEach((other, k) => markWords(other, "pinned", pinned?.[0] === k ? [pinned[1]] : []));
      look(column, index);
    },
  }));
}
