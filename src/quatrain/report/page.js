// Shows each curve's value at the step under the pointer, or at the step that the arrow keys have moved to.
"use strict";
for (const plot of document.querySelectorAll("[data-chart]")) {
  const chart = JSON.parse(plot.querySelector("script").textContent);
  const cursor = plot.querySelector(".cursor");
  const reading = plot.querySelector(".reading");
  const steps = [...new Set(chart.curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
  const [low, high] = chart.x;
  let index = 0;

  const nearest = (values, wanted) => {
    let best = 0;
    values.forEach((value, i) => { if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i; });
    return best;
  };
  const row = (style, name, value) => {
    const line = document.createElement("span");
    const label = document.createElement("b");
    label.className = style;
    label.textContent = name;
    line.append(label, value);
    return line;
  };
  const show = (i) => {
    index = Math.max(0, Math.min(steps.length - 1, i));
    const step = steps[index];
    const percent = (100 * (step - low)) / (high - low);
    const title = document.createElement("span");
    title.textContent = `step ${step.toLocaleString("en")}`;
    reading.replaceChildren(title, ...chart.curves.map((curve) => {
      const [at, value] = curve.points[nearest(curve.points.map((point) => point[0]), step)];
      const text = value.toLocaleString("en", { maximumSignificantDigits: 4 });
      return row(curve.style, curve.name, Math.abs(value) < 1e-3 && value ? value.toExponential(2) : at === step ? text : `${text} (step ${at})`);
    }));
    cursor.style.left = `${percent}%`;
    reading.style.left = percent < 50 ? `calc(${percent}% + 10px)` : "auto";
    reading.style.right = percent < 50 ? "auto" : `calc(${100 - percent}% + 10px)`;
    cursor.hidden = reading.hidden = false;
  };
  const hide = () => { cursor.hidden = reading.hidden = true; };

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(nearest(steps, low + ((event.clientX - box.left) / box.width) * (high - low)));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10 }[event.key];
    if (event.key === "Escape") hide();
    if (!move) return;
    event.preventDefault();
    show(reading.hidden ? index : index + move);
  });
}
