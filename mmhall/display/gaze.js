// Where a model looked: unpacks gaze records and draws heat over a picture. The page and the notebook use it unchanged.

const fromBase64 = text => Uint8Array.from(atob(text || ""), letter => letter.charCodeAt(0));

// Unpacks a gaze record: `map(word)` is attention per cell of the grid, `share(word)` the share of the picture per
// layer and head, `list(word)` the likeliest tokens of its first token.
export function unpack(record) {
  const [rows, columns] = record.grid;
  const reader = (text, size, scale) => {
    const data = fromBase64(text);
    return word => Float32Array.from(data.subarray(word * size, (word + 1) * size), value => (value * scale) / 255);
  };
  return {
    ...record,
    map: reader(record.maps, rows * columns, record.scale),
    share: reader(record.shares, record.layers.length * record.heads.length, record.share_scale),
  };
}

// The attention that full colour stands for, so that all answers have one scale.
export const peak = gazes => Math.max(...gazes.map(gaze => gaze?.scale || 0), 1e-9);

// Colours as (red, green, blue): heat from pale to deep; a difference has one colour for each sign.
const HEAT = [[255, 236, 160], [255, 150, 40], [190, 20, 60]], MORE = [225, 95, 0], LESS = [20, 100, 235];

function colourOf(t, signed) {
  if (signed) return t > 0 ? MORE : LESS;
  const place = Math.min(0.999, t) * (HEAT.length - 1), low = Math.floor(place), part = place - low;
  return HEAT[low].map((value, i) => value + part * (HEAT[low + 1][i] - value));
}

// Draws values of a grid over the part `box` of a canvas as large as the picture; `top` has full colour.
export function drawHeat(canvas, values, grid, box, top, signed = false) {
  const [rows, columns] = grid, density = globalThis.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * density));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * density));
  const cells = document.createElement("canvas"), brush = canvas.getContext("2d");
  [cells.width, cells.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const t = Math.max(-1, Math.min(1, values[i] / top));
    pixels.data.set([...colourOf(t, signed), 240 * Math.abs(t) ** 0.85], 4 * i);
  }
  cells.getContext("2d").putImageData(pixels, 0, 0);
  brush.imageSmoothingQuality = "high";
  const [x0, y0, x1, y1] = [box[0] * canvas.width, box[1] * canvas.height, box[2] * canvas.width, box[3] * canvas.height];
  brush.drawImage(cells, x0, y0, x1 - x0, y1 - y0);
}

export function clearHeat(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

// The cell of the grid at a point of the picture, in fractions; -1: outside.
export function cellAt({grid: [rows, columns], box}, x, y) {
  const column = Math.floor(((x - box[0]) / (box[2] - box[0])) * columns);
  const row = Math.floor(((y - box[1]) / (box[3] - box[1])) * rows);
  return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : -1;
}

// For each word, the part of its attention on the picture that falls into a rectangle (x0, y0, x1, y1, in fractions).
export function inside(gaze, count, [x0, y0, x1, y1]) {
  const [rows, columns] = gaze.grid, [left, top, right, bottom] = gaze.box;
  const covered = Array.from({length: rows * columns}, (_, i) => {
    const x = left + (((i % columns) + 0.5) / columns) * (right - left);
    const y = top + ((Math.floor(i / columns) + 0.5) / rows) * (bottom - top);
    return x >= x0 && x <= x1 && y >= y0 && y <= y1;
  });
  return Array.from({length: count}, (_, word) => {
    const map = gaze.map(word), all = map.reduce((sum, value) => sum + value, 0);
    return all ? map.reduce((sum, value, i) => sum + (covered[i] ? value : 0), 0) / all : 0;
  });
}
