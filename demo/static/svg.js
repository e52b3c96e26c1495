// Draws parts of the page as SVG that any program opens: boxes, lines and pictures, and text word by word, where they stand.

const NONE = "rgba(0, 0, 0, 0)";
const escaped = text => `${text}`.replace(/[&<>"]/g, letter => `&#${letter.charCodeAt(0)};`);

const pixels = node => {  // of an image or a canvas as it is shown, as a data URL
  const canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
  [canvas.width, canvas.height] = [node.naturalWidth || node.width, node.naturalHeight || node.height];
  brush.filter = getComputedStyle(node).filter;
  if (canvas.width && canvas.height) brush.drawImage(node, 0, 0);
  return canvas.toDataURL();
};

// Each part is [element, x, y]; what only serves to change the page (class "quiet", <i>) is left out.
export function draw(parts, width, height) {
  const drawn = [], attributes = pairs => Object.entries(pairs).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("");
  const box = ({x, y, width, height}, more) => drawn.push(`<rect${attributes({x, y, width, height, ...more})}/>`);
  const text = (content, {x, y, height}, style) => drawn.push(`<text${attributes({x, y: y + height * 0.77, fill: style.color,
    "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight})}>${escaped(content)}</text>`);
  const walk = (node, place) => {
    if (node.nodeType === Node.TEXT_NODE) return [...node.data.matchAll(/\S+/g)].forEach(({0: word, index}) => {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      text(word, place(range.getBoundingClientRect()), getComputedStyle(node.parentElement));
    });
    if (!node.checkVisibility?.({visibilityProperty: true}) || node.matches(".quiet, i")) return;
    const style = getComputedStyle(node), sign = getComputedStyle(node, "::before"), boxes = [...node.getClientRects()].map(place);
    boxes.forEach(found => {
      const outline = style.outlineStyle === "none" ? {} : {stroke: style.outlineColor, "stroke-width": 2};
      if (style.backgroundColor !== NONE || outline.stroke) box(found, {fill: style.backgroundColor, rx: 3, ...outline});
      const risk = Number(style.getPropertyValue("--risk")) * 3 * node.matches(".mm-word");
      if (risk) box({...found.toJSON(), y: found.bottom - risk, height: risk}, {fill: style.color, "fill-opacity": 0.6});
      if (parseFloat(style.borderBottomWidth)) box({...found.toJSON(), y: found.bottom - 1, height: 1}, {fill: style.borderBottomColor});
      if (parseFloat(style.borderLeftWidth)) box({...found.toJSON(), width: parseFloat(style.borderLeftWidth)}, {fill: style.borderLeftColor});
    });
    if (/^".+"$/.test(sign.content)) text(sign.content.slice(1, -1), boxes[0], sign);
    if (node.matches("img, canvas")) drawn.push(`<image${attributes({x: boxes[0].x, y: boxes[0].y, width: boxes[0].width,
      height: boxes[0].height, preserveAspectRatio: "none", href: pixels(node)})}/>`);
    node.childNodes.forEach(child => walk(child, place));
  };
  box({x: 0, y: 0, width, height}, {fill: getComputedStyle(document.body).backgroundColor});
  for (const [root, x, y] of parts) {
    const from = root.getBoundingClientRect();
    walk(root, found => new DOMRect(found.x - from.x + x, found.y - from.y + y, found.width, found.height));
  }
  return `<svg xmlns="http://www.w3.org/2000/svg"${attributes({width, height, viewBox: `0 0 ${width} ${height}`})}>${drawn.join("\n")}</svg>`;
}

