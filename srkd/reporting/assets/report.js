// The report's script: draws the charts with Observable Plot, and moves the comparator's divider.
// It reads what stands in the page and fetches nothing. Texts are set as text, never as markup.
"use strict";

const COLOURS = 8;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];

// Every eighth line has the same colour, and then another dash.
const colourOf = (index) => `var(--c${index % COLOURS})`;
const dashOf = (index, dashed) => (dashed ? "5 4" : DASHES[Math.floor(index / COLOURS) % DASHES.length]);

function drawCharts() {
  const charts = JSON.parse(document.querySelector("#charts").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const number = place.dataset.chart;
    const chart = charts[number];
    const picture = chart.kind === "lines" ? drawLines(chart) : drawPoints(chart);
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-labelledby", `chart-${number}-title`);
    place.append(picture);
    place.append(chart.kind === "lines" ? legend(chart.series.map(({ name, dashed }, index) => ({
      name, colour: colourOf(index), dash: dashOf(index, dashed),
    }))) : "");
  }
}

function drawLines(chart) {
  const marks = chart.series.flatMap(({ name, dashed, points }, index) => {
    const style = { stroke: colourOf(index), strokeWidth: 2, strokeDasharray: dashOf(index, dashed) };
    const line = Plot.line(points, { x: "0", y: "1", ...style });
    // A single validation would be no line.
    const dots = points.length <= 40 && !dashed ? [Plot.dot(points, { x: "0", y: "1", r: 3, fill: style.stroke })] : [];
    return [line, ...dots];
  });
  return Plot.plot({
    width: 720, height: 300, marginLeft: 64, marginBottom: 40,
    x: { label: chart.x, ticks: 8, tickFormat: (step) => step.toLocaleString("en") },
    y: { label: null, grid: true, type: chart.logarithmic ? "log" : "linear", ticks: 6, nice: true, tickFormat: short },
    marks: [
      Plot.ruleX(chart.marks, { stroke: "var(--c1)", strokeDasharray: "2 3" }),
      ...marks,
    ],
  });
}

function drawPoints(chart) {
  const roles = ["teacher", "student", "baseline"];
  const colour = ({ role }) => colourOf(Math.max(0, roles.indexOf(role)));
  const symbol = ({ role }) => ["square", "circle", "triangle"][Math.max(0, roles.indexOf(role))];
  const xs = chart.points.map(({ x }) => x);
  const wide = Math.max(...xs) > 4 * Math.min(...xs);
  // Names keep off each other: where points are close, every second one stands below.
  const sorted = [...chart.points].sort((a, b) => a.x - b.x || a.y - b.y);
  const below = new Set(sorted.filter((point, index) => index % 2 === 1));
  const name = (points, dy) => Plot.text(points, { x: "x", y: "y", text: "name", dy, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 4, lineWidth: 24 });
  return Plot.plot({
    width: 720, height: 320, marginLeft: 64, marginRight: 90, marginBottom: 44, insetLeft: 70, insetRight: 40, insetTop: 26, insetBottom: 26,
    x: { label: chart.x, type: wide ? "log" : "linear", ticks: 5, tickFormat: short, grid: true },
    y: { label: chart.y, grid: true, ticks: 6 },
    symbol: { type: "identity" },
    marks: [
      Plot.ruleY(chart.levels, { y: "y", stroke: "currentColor", strokeDasharray: "5 4", strokeOpacity: 0.7 }),
      Plot.text(chart.levels, { y: "y", text: "name", frameAnchor: "right", dy: -8, fill: "currentColor", textAnchor: "end" }),
      ...chart.points.map((point) => Plot.dot([point], { x: "x", y: "y", r: 7, symbol: symbol(point), fill: colour(point), stroke: "var(--paper)" })),
      name(sorted.filter((point) => !below.has(point)), -16),
      name(sorted.filter((point) => below.has(point)), 17),
    ],
  });
}

// Numbers of axes without the digits that rounding leaves behind.
function short(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(0) : Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
}

function legend(entries) {
  const list = document.createElement("ul");
  list.className = "legend";
  for (const { name, colour, dash } of entries) {
    const item = document.createElement("li");
    const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3, "stroke-dasharray": dash })) {
      line.setAttribute(key, value);
    }
    line.style.stroke = colour;
    sample.setAttribute("aria-hidden", "true");
    sample.append(line);
    item.append(sample, name);
    list.append(item);
  }
  return list;
}

// One comparator a run. Its pictures are those of the crops below it: no picture is in the page twice.
function startComparator(comparator) {
  const run = comparator.dataset.run;
  const stage = comparator.querySelector(".stage");
  const slider = stage.querySelector("input");
  const crop = comparator.querySelector("[data-crop]");
  const sides = { left: comparator.querySelector("[data-side=left]"), right: comparator.querySelector("[data-side=right]") };

  const figure = (layer) =>
    document.querySelector(`.crop[data-run="${run}"][data-index="${crop.value}"] img[data-layer="${layer}"]`);

  function move() {
    stage.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % ${sides.left.value}, the rest ${sides.right.value}`);
  }

  function show() {
    const left = figure(sides.left.value);
    const right = figure(sides.right.value);
    stage.querySelector(".over").src = left.src;
    stage.querySelector(".under").src = right.src;
    stage.querySelector(".name.left").textContent = sides.left.value;
    stage.querySelector(".name.right").textContent = sides.right.value;
    const score = (image) => image.closest("figure").querySelector("figcaption").textContent;
    comparator.querySelector(".scores").textContent =
      `Left ${score(left)}, right ${score(right)}: Y-PSNR of this crop to the original.`;
    slider.setAttribute("aria-label", `Divider: ${sides.left.value} left of it, ${sides.right.value} right of it`);
    move();
  }

  slider.addEventListener("input", move);
  for (const select of [crop, sides.left, sides.right]) {
    select.addEventListener("change", show);
  }
  show();
  comparator.hidden = false;
}

drawCharts();
document.querySelectorAll(".comparator").forEach(startComparator);
