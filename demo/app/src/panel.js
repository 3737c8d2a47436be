// The texts beside the picture: result, figures, engine, progress, errors.

import { ENGINES, NOT_ISOLATED } from "./runtime.js";
import { duration, enlargement, megapixels, number, size } from "./format.js";
import { lossOf } from "./models.js";

export const part = (id) => document.getElementById(id);

/** Announce `words` to screen readers. */
export function say(words) {
  part("announcement").textContent = words;
}

export function trouble(words) {
  part("trouble").hidden = !words;
  part("trouble").textContent = words ?? "";
}

/** `remedy` says what a page that is not isolated can do. */
export function showEngine(choice, remedy) {
  const chip = chipOf(choice);
  part("engine").textContent = `${ENGINES[choice.engine]} · ${engineOn(choice)}`;
  part("chip").textContent = `on the ${chip}`;
  part("engine-words").textContent = `The ${chip} of this device computes${browserName() ? `, in ${browserName()}` : ""}.`;
  const why = choice.why.map((each) => (each === NOT_ISOLATED ? `${each} ${remedy}` : each));
  part("why").replaceChildren(...(why.length ? why : ["The best engine that this app supports."]).map(item));
}

/** Return what an engine runs on: the adapter, or the threads. */
export function engineOn({ engine, adapter, threads }) {
  return engine === "webgpu" ? adapter : `${threads} thread${threads === 1 ? "" : "s"}`;
}

/** Return the word for what computes; WebGPU's adapter in software is the processor. */
function chipOf({ engine, software }) {
  return engine === "webgpu" && !software ? "graphics processor" : "processor";
}

/** Return the browser and its system, where the browser says them; else "". */
export function browserName() {
  const { brands = [], platform } = navigator.userAgentData ?? {};
  const known = brands.filter(({ brand }) => !/not.?a.?brand/i.test(brand.replace(/[^a-z]/gi, "")));
  const named = known.find(({ brand }) => brand !== "Chromium") ?? known[0];
  return named ? `${named.brand} ${named.version}${platform ? ` on ${platform}` : ""}` : "";
}

/** Show work of unknown length; null: it is over. */
export function showWork(words) {
  part("work").hidden = !words;
  part("progress").removeAttribute("value");
  part("progress-words").textContent = words ?? "";
}

export function showBegun(total, title) {
  part("work").hidden = false;
  part("progress").max = total;
  part("progress").value = 0;
  part("progress-words").textContent = `${title}: ${total} part${total === 1 ? "" : "s"}`;
}

export function showProgress(tile, title) {
  part("progress").max = tile.total;
  part("progress").value = tile.done;
  const left = ((tile.total - tile.done) * tile.ms) / 1000;
  const rest = left > 5 ? `, about ${duration(left)} left` : "";
  part("progress-words").textContent = `${title}: part ${tile.done} of ${tile.total}${rest}`;
  const quarter = Math.ceil(tile.total / 4);
  if (tile.done && tile.done % quarter === 0 && tile.done < tile.total) say(`${tile.done} of ${tile.total} parts`);
}

/** Return what became of a picture: in short, and its sizes. */
export function resultWords({ picture, scale, canvas }) {
  const [width, height] = [picture.width * scale, picture.height * scale];
  const before = scale === 1 ? "" : ` instead of ${unbroken(picture.width, picture.height)}`;
  const shown = canvas.width < width ? " It is shown smaller here; Save gives all of it." : "";
  return [`${enlargement(scale)}.`, `${unbroken(width, height)} pixels${before}.${shown}`];
}

function unbroken(width, height) {
  return size(width, height).replaceAll(" ", "\u00a0");
}

/** Show what a result is, in words and in the figures of the details; null: there is none yet. */
export function showFigures(result) {
  const [short, sizes] = result?.stats ? resultWords(result) : ["", ""];
  part("result-short").textContent = short;
  part("result-sizes").textContent = sizes;
  if (!result) {
    for (const id of ["figure-ms", "figure-rate", "figure-size"]) part(id).textContent = "–";
    for (const id of ["figure-window", "figure-time", "figure-from"]) part(id).textContent = "";
    return;
  }
  const { stats, picture, scale, canvas } = result;
  const [width, height] = [picture.width * scale, picture.height * scale];
  part("figure-ms").textContent = number(stats.medianMs);
  part("figure-window").textContent = `${size(...stats.window)}, ${stats.tiles} of them${stats.exact ? "" : ", seams not exact"}`;
  part("figure-rate").textContent = number((width * height) / 1e6 / stats.seconds);
  part("figure-time").textContent = `of result, ${duration(stats.seconds)} in all`;
  part("figure-size").textContent = megapixels(width, height);
  const shown = canvas.width < width ? `, shown as ${size(canvas.width, canvas.height)}` : "";
  part("figure-from").textContent = `${size(width, height)}${shown}`;
}

/** Say what the button measures: both sides in turns, where both are networks. */
export function showMeasure(both) {
  part("measure").textContent = both ? "Compare the speed of both sides" : "Measure a 64 × 64 tile";
}

/** Say whose picture a sample is and under which licence; null: the picture is the user's. */
export function showCredit(sample) {
  part("credit").textContent = sample?.credit ? `${sample.title ?? sample.name}: ${sample.credit}` : "";
}

export function showSamples(samples, choose) {
  for (const id of ["samples", "samples-again"]) {
    part(id).replaceChildren(
      ...samples.map((sample) => {
        const button = document.createElement("button");
        const image = document.createElement("img");
        Object.assign(image, { src: sample.url, alt: "", loading: "eager", decoding: "async" });
        const title = sample.title ?? sample.name;
        button.setAttribute("aria-label", `Sample: ${title}`);
        button.title = sample.credit ? `${title} (${sample.credit})` : title;
        const caption = document.createElement("span");
        caption.textContent = title;
        button.append(image, caption);
        button.addEventListener("click", () => choose(sample));
        return button;
      }),
    );
  }
}

/** A network in eight bits says so and what it lost, at the beginning: a phone may show no more of it. */
function optionOf(model) {
  const { title, precision, file } = model;
  const loss = lossOf(model);
  if (precision !== "int8" || file) return loss ? `${title} (${loss})` : title;
  return `int8${loss ? ` ${loss}` : ""}: ${title.replace(/, int8\b/, "")}`;
}

/** Say "restore" where the page says "enlarge" (`kind` "restoring": all networks keep the size), or speak of a plan's times. */
export function speakOf(kind) {
  for (const each of document.querySelectorAll(`[data-${kind}]`)) each.textContent = each.dataset[kind];
}

/** Fill the same list for both sides. */
export function fillChoices(models, sides) {
  for (const side of ["left", "right"]) {
    part(side).replaceChildren(...models.map((model) => new Option(optionOf(model), model.key)));
    part(side).value = sides[side].key;
  }
}

/** Return a new element with words in it. */
export function element(kind, words) {
  const made = document.createElement(kind);
  made.textContent = words;
  return made;
}

function item(words) {
  return element("li", words);
}
