// The report's script: draws the charts with Observable Plot, and moves the comparator's divider.
// It reads what stands in the page and fetches nothing. Texts are set as text, never as markup.
"use strict";

const COLOURS = 8;
const ROLES = ["teacher", "student", "baseline"];
const SIGNS = ["■", "●", "▲"];
const SVG = "http://www.w3.org/2000/svg";
const WIDEST = 760;
const NARROWEST = 280;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];

// Every eighth line has the same colour, and then another dash.
const colourOf = (index) => `var(--c${index % COLOURS})`;
const dashOf = (index, dashed) => (dashed ? "5 4" : DASHES[Math.floor(index / COLOURS) % DASHES.length]);

function drawCharts() {
  const charts = JSON.parse(document.querySelector("#charts").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const number = place.dataset.chart;
    const chart = charts[number];
    const width = Math.min(WIDEST, Math.max(NARROWEST, place.clientWidth));
    const picture = chart.kind === "lines" ? drawLines(chart, width) : drawPoints(chart, width);
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-labelledby", `chart-${number}-title`);
    // The picture has one name, its title; its figures are in the table below.
    picture.querySelectorAll("[aria-label], [aria-description]").forEach((part) => {
      part.removeAttribute("aria-label");
      part.removeAttribute("aria-description");
    });
    place.replaceChildren(picture);
    place.append(chart.kind === "lines" ? lineLegend(chart.series) : roleLegend(chart.points));
  }
}

function drawLines(chart, width) {
  const marks = chart.series.flatMap(({ name, dashed, points }, index) => {
    const style = { stroke: colourOf(index), strokeWidth: 2, strokeDasharray: dashOf(index, dashed) };
    const line = Plot.line(points, { x: "0", y: "1", ...style });
    // A single validation would be no line.
    const dots = points.length <= 40 && !dashed ? [Plot.dot(points, { x: "0", y: "1", r: 3, fill: style.stroke })] : [];
    return [line, ...dots];
  });
  return Plot.plot({
    width, height: 300, marginLeft: 64, marginBottom: 40,
    x: { label: chart.x, ticks: Math.round(width / 90), tickFormat: (step) => step.toLocaleString("en") },
    y: { label: null, grid: true, type: chart.logarithmic ? "log" : "linear", ticks: 6, nice: true, tickFormat: short },
    marks: [
      Plot.ruleX(chart.marks, { stroke: "var(--c1)", strokeDasharray: "2 3" }),
      ...marks,
    ],
  });
}

function drawPoints(chart, width) {
  const colour = ({ role }) => colourOf(Math.max(0, ROLES.indexOf(role)));
  const symbol = ({ role }) => ["square", "circle", "triangle"][Math.max(0, ROLES.indexOf(role))];
  const xs = chart.points.map(({ x }) => x);
  const wide = Math.max(...xs) > 4 * Math.min(...xs);
  // Names keep off each other: where points are close, every second one stands below.
  const sorted = [...chart.points].sort((a, b) => a.x - b.x || a.y - b.y);
  const below = new Set(sorted.filter((point, index) => index % 2 === 1));
  const name = (points, dy) => Plot.text(points, { x: "x", y: "y", text: "name", dy, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 4, lineWidth: width / 40 });
  return Plot.plot({
    width, height: 320, marginLeft: 50, marginRight: 20, marginBottom: 44, insetLeft: Math.max(60, width / 9), insetRight: Math.max(50, width / 9), insetTop: 26, insetBottom: 26,
    x: { label: chart.x, type: wide ? "log" : "linear", ticks: width / 130, tickFormat: short, grid: true },
    y: { label: chart.y, grid: true, ticks: 6 },
    symbol: { type: "identity" },
    marks: [
      Plot.ruleY(chart.levels, { y: "y", stroke: "currentColor", strokeDasharray: "5 4", strokeOpacity: 0.7 }),
      Plot.text(chart.levels, { y: "y", text: "name", frameAnchor: "right", dy: -8, fill: "currentColor", textAnchor: "end" }),
      Plot.line(chart.front, { x: "0", y: "1", stroke: "currentColor", strokeOpacity: 0.45 }),
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

function lineLegend(series) {
  return legend(series.map(({ name, dashed }, index) => {
    const sample = document.createElementNS(SVG, "svg");
    const line = document.createElementNS(SVG, "line");
    for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3, "stroke-dasharray": dashOf(index, dashed) })) {
      line.setAttribute(key, value);
    }
    line.style.stroke = colourOf(index);
    sample.append(line);
    return [sample, name];
  }));
}

function roleLegend(points) {
  return legend(ROLES.filter((role) => points.some((point) => point.role === role)).map((role) => {
    const sign = document.createElement("span");
    sign.textContent = `${SIGNS[ROLES.indexOf(role)]} `;
    sign.style.color = colourOf(ROLES.indexOf(role));
    return [sign, role];
  }));
}

// A list of samples, which are for the eye alone, and their names.
function legend(entries) {
  const list = document.createElement("ul");
  list.className = "legend";
  for (const [sample, name] of entries) {
    const item = document.createElement("li");
    sample.setAttribute("aria-hidden", "true");
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
// A phone that is turned has another width; paper takes the pictures as they are.
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnWidth && !matchMedia("print").matches) {
    drawnWidth = innerWidth;
    drawCharts();
  }
});
document.querySelectorAll(".comparator").forEach(startComparator);
