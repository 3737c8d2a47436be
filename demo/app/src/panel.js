// The texts beside the picture: figures, engine, model, progress, errors.

import { NOT_ISOLATED } from "./runtime.js";
import { duration, megabytes, megapixels, number, size } from "./format.js";

export const part = (id) => document.getElementById(id);

const ENGINES = { webgpu: "WebGPU", wasm: "WebAssembly" };

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
  const threads = choice.engine === "webgpu" ? choice.adapter : `${choice.threads} thread${choice.threads === 1 ? "" : "s"}`;
  part("engine").textContent = `${ENGINES[choice.engine]} · ${threads}`;
  const why = choice.why.map((each) => (each === NOT_ISOLATED ? `${each} ${remedy}` : each));
  part("why").replaceChildren(...(why.length ? why : ["The best engine that this app supports."]).map(item));
}

/** Return the facts about a model: from its file once it was opened, before that from the list. */
function describe({ facts, bytes, precision, scale, fixed_size, receptive_radius, metadata }) {
  const fixed = fixed_size ? [fixed_size.width, fixed_size.height] : null;
  return { bytes, precision, scale, fixed, radius: receptive_radius ?? undefined, metadata: metadata ?? {}, ...facts };
}

/** Show the model of the figures; null if both sides are bicubic. */
export function showModel(model) {
  part("model-name").textContent = model?.title ?? "";
  part("figure-model").textContent = model ? megabytes(describe(model).bytes) : "–";
  part("figure-model-kind").textContent = model ? kindOf(model) : "";
  part("model-facts").replaceChildren(...(model ? rowsOf(model).flatMap(([key, value]) => [term(key), detail(value)]) : []));
}

function kindOf(model) {
  const { precision, scale } = describe(model);
  const suffix = model.title.endsWith(precision) ? null : precision;
  return [model.title, suffix, scale && `×${scale}`].filter(Boolean).join(", ");
}

function rowsOf(model) {
  const { bytes, scale, radius, fixed, metadata } = describe(model);
  const entries = Object.entries(metadata).filter(([key]) => key.startsWith("srkd."));
  const reach = radius === null ? "the whole picture: tiles overlap, seams may differ" : `${radius} pixels around: tiles have no seams`;
  return [
    ["file", model.name ?? model.title],
    ["size", megabytes(bytes)],
    ...(scale ? [["enlarges", `×${scale}`]] : []),
    ...(radius === undefined ? [] : [["sees", reach]]),
    ["takes", fixed ? `only ${size(...fixed)}` : "any size"],
    ...(entries.length ? entries : [["metadata", "none of srkd's: a model that srkd did not export"]]),
  ];
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
  part("progress-words").textContent = `${title}: ${total} tile${total === 1 ? "" : "s"}`;
}

export function showProgress(tile, title) {
  part("progress").value = tile.done;
  const left = ((tile.total - tile.done) * tile.ms) / 1000;
  const rest = left > 5 ? `, about ${duration(left)} left` : "";
  part("progress-words").textContent = `${title}: tile ${tile.done} of ${tile.total}, ${number(tile.ms)} ms${rest}`;
  const quarter = Math.ceil(tile.total / 4);
  if (tile.done % quarter === 0 && tile.done < tile.total) say(`${tile.done} of ${tile.total} tiles`);
}

/** Show the figures of a result; null: there is none yet. */
export function showFigures(result) {
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
        button.append(image);
        button.addEventListener("click", () => choose(sample));
        return button;
      }),
    );
  }
}

/** Fill the same list for both sides. */
export function fillChoices(models, sides) {
  for (const side of ["left", "right"]) {
    part(side).replaceChildren(...models.map(({ key, title }) => new Option(title, key)));
    part(side).value = sides[side].key;
  }
}

function item(words) {
  const li = document.createElement("li");
  li.textContent = words;
  return li;
}

function term(words) {
  const dt = document.createElement("dt");
  dt.textContent = words.replace(/^srkd\./, "");
  return dt;
}

function detail(words) {
  const dd = document.createElement("dd");
  dd.textContent = words;
  return dd;
}
