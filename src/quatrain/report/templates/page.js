"use strict";
// Both kinds of drawing tell values: of each curve at the step under the pointer, of a map its cell. Arrow keys move.

const shown = (value) =>
  Math.abs(value) < 1e-3 && value ? value.toExponential(2) : value.toLocaleString("en", { maximumSignificantDigits: 4 });

const span = (...parts) => {
  const line = document.createElement("span");
  line.append(...parts);
  return line;
};

// Puts the reading beside what it is about: left of it in the right half, so that it stays on the page.
const place = (reading, from, to) => {
  const left = from + to < 100;
  reading.style.left = left ? `calc(${to}% + 10px)` : "auto";
  reading.style.right = left ? "auto" : `calc(${100 - from}% + 10px)`;
};

const listen = (plot, parts, toward, move) => {
  const hide = () => parts.forEach((part) => (part.hidden = true));
  const show = (change) => {
    change();
    parts.forEach((part) => (part.hidden = false));
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(() => toward((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [10, 0], PageDown: [-10, 0] }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show(() => move(...(parts[0].hidden ? [0, 0] : step)));
  });
};

const nearest = (values, wanted) => {
  let best = 0;
  values.forEach((value, i) => { if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i; });
  return best;
};
const within = (index, length) => Math.max(0, Math.min(length - 1, index));

for (const plot of document.querySelectorAll("[data-chart]")) {
  const chart = JSON.parse(plot.querySelector("script").textContent);
  const cursor = plot.querySelector(".cursor");
  const reading = plot.querySelector(".reading");
  const steps = [...new Set(chart.curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
  const [low, high] = chart.x;
  let index = 0;

  const row = (curve, step) => {
    const [at, value] = curve.points[nearest(curve.points.map((point) => point[0]), step)];
    const label = document.createElement("b");
    label.className = curve.style;
    label.textContent = curve.name;
    return span(label, at === step ? shown(value) : `${shown(value)} (${chart.name} ${shown(at)})`);
  };
  const show = (i) => {
    index = within(i, steps.length);
    const step = steps[index];
    const percent = (100 * (step - low)) / (high - low);
    reading.replaceChildren(span(`${chart.name} ${shown(step)}`), ...chart.curves.map((curve) => row(curve, step)));
    cursor.style.left = `${percent}%`;
    place(reading, percent, percent);
  };
  listen(plot, [cursor, reading], (x) => show(nearest(steps, low + x * (high - low))), (by) => show(index + by));
}

for (const plot of document.querySelectorAll("[data-map]")) {
  const { rows, columns, values } = JSON.parse(plot.querySelector("script").textContent);
  const frame = plot.querySelector(".frame");
  const reading = plot.querySelector(".reading");
  const [width, height] = [100 / columns.length, 100 / rows.length];
  let [row, column] = [0, 0];

  const show = (r, c) => {
    [row, column] = [within(r, rows.length), within(c, columns.length)];
    const value = values[row][column];
    reading.replaceChildren(span(`block ${columns[column]}, ${rows[row]}`), span(value === null ? "none" : shown(value)));
    Object.assign(frame.style, { left: `${column * width}%`, top: `${row * height}%`, width: `${width}%`, height: `${height}%` });
    place(reading, column * width, (column + 1) * width);
  };
  listen(
    plot,
    [frame, reading],
    (x, y) => show(Math.floor(y * rows.length), Math.floor(x * columns.length)),
    (right, down) => show(row + down, column + right),
  );
}
