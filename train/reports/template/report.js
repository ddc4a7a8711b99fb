"use strict";
// Reads the numbers under the pointer; dragging across a plot zooms into its steps, a double click goes back.
// No less-than and no ampersand stands here: the page is well-formed XML.
const short = value => Math.abs(value) >= 10 ? String(Math.round(value)) : Number(value.toPrecision(3)).toString();
const place = (svg, event) => {
  const box = svg.getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  return [share, Math.min(1, Math.max(0, (event.clientY - box.top) / box.height))];
};
for (const plot of document.querySelectorAll("svg.plot")) {
  const figure = plot.closest("figure"), output = figure.querySelector(".readout");
  const [x0, x1, y0, y1] = plot.dataset.range.split(" ").map(Number);
  const outer = plot.parentNode, lines = [];
  for (const line of plot.querySelectorAll("polyline:not(.faint)")) {
    const points = line.getAttribute("points").split(" ").map(pair => pair.split(",").map(Number));
    lines.push([line.dataset.name, points]);
  }
  let view = [0, 1000], began = null;
  const area = document.createElementNS(plot.namespaceURI, "rect");
  area.setAttribute("width", "1000"); area.setAttribute("height", "1000"); area.setAttribute("fill", "transparent");
  plot.append(area);
  const inside = share => view[0] + share * (view[1] - view[0]);
  const show = (from, to) => {
    view = [from, to];
    plot.setAttribute("viewBox", from + " 0 " + (to - from) + " 1000");
    area.setAttribute("x", from); area.setAttribute("width", to - from);
    for (const text of outer.querySelectorAll("text.x")) {
      text.textContent = short(x0 + inside(Number(text.dataset.share)) / 1000 * (x1 - x0));
    }
  };
  plot.addEventListener("pointermove", event => {
    const x = inside(place(plot, event)[0]), parts = [], seen = new Map();
    for (const [name, points] of lines) {
      for (const [a, b] of points) {
        const far = Math.abs(a - x);
        if (!seen.has(name) || seen.get(name)[0] > far) { seen.set(name, [far, a, b]); }
      }
    }
    for (const [name, [far, a, b]] of seen) { parts.push(name + " " + short(y1 - b / 1000 * (y1 - y0))); }
    output.textContent = short(x0 + x / 1000 * (x1 - x0)) + ": " + parts.join(", ");
  });
  plot.addEventListener("pointerdown", event => { began = event.pointerType === "mouse" ? inside(place(plot, event)[0]) : null; });
  plot.addEventListener("pointerup", event => {
    if (began === null) { return; }
    const end = inside(place(plot, event)[0]), from = Math.min(began, end), to = Math.max(began, end);
    began = null;
    if (to - from > 10) { show(from, to); }
  });
  plot.addEventListener("dblclick", () => show(0, 1000));
}
for (const map of document.querySelectorAll("svg.map")) {
  const output = map.closest("figure").querySelector(".readout");
  const names = map.dataset.names.split("|"), values = map.dataset.values.split(",");
  const columns = values.length / names.length, last = Number(map.dataset.last);
  map.addEventListener("pointermove", event => {
    const [across, down] = place(map, event);
    const column = Math.min(columns - 1, Math.floor(across * columns));
    const row = Math.min(names.length - 1, Math.floor(down * names.length));
    const value = values[row * columns + column];
    const from = Math.round(column / columns * last), to = Math.round((column + 1) / columns * last);
    output.textContent = names[row] + ", steps " + from + " to " + to + ": " + (value === "" ? "never met" : "cosine " + value / 100);
  });
}
