// Everything that is written beside the picture: figures, engine, model, progress, trouble.

import { duration, megabytes, megapixels, number, size } from "./words.js";

export const part = (id) => document.getElementById(id);

const ENGINES = { webgpu: "WebGPU", wasm: "WebAssembly" };

/** For those who hear the page. */
export function say(words) {
  part("said").textContent = words;
}

export function trouble(words) {
  part("trouble").hidden = !words;
  part("trouble").textContent = words ?? "";
}

export function showEngine(choice) {
  const threads = choice.engine === "webgpu" ? choice.adapter : `${choice.threads} thread${choice.threads === 1 ? "" : "s"}`;
  part("engine").textContent = `${ENGINES[choice.engine]} · ${threads}`;
  part("why").replaceChildren(...(choice.why.length ? choice.why : ["The best that this app knows."]).map(item));
}

export function showModel(model, facts) {
  part("model-name").textContent = model.title;
  part("figure-model").textContent = megabytes(facts.bytes ?? model.bytes);
  part("figure-model-kind").textContent = `${model.title}, ${facts.precision}, ×${facts.scale}`;
  const metadata = Object.entries(facts.metadata).filter(([key]) => key.startsWith("srkd."));
  const rows = [
    ["file", model.name ?? model.title],
    ["size", megabytes(facts.bytes ?? model.bytes)],
    ["enlarges", `×${facts.scale}`],
    ["sees", facts.radius === null ? "the whole picture: tiles overlap, seams may differ" : `${facts.radius} pixels around: tiles have no seams`],
    ["takes", facts.fixed ? `only ${size(...facts.fixed)}` : "any size"],
    ...(metadata.length ? metadata : [["metadata", "none of srkd's: a model from elsewhere"]]),
  ];
  part("model-facts").replaceChildren(...rows.flatMap(([key, value]) => [term(key), detail(value)]));
}

export function showProgress(tile, title) {
  part("work").hidden = !tile;
  if (!tile) return;
  part("progress").max = tile.total;
  part("progress").value = tile.done;
  const left = ((tile.total - tile.done) * tile.ms) / 1000;
  const rest = left > 5 ? `, about ${duration(left)} left` : "";
  part("progress-words").textContent = `${title}: tile ${tile.done} of ${tile.total}, ${number(tile.ms)} ms${rest}`;
  const quarter = Math.ceil(tile.total / 4);
  if (tile.done % quarter === 0 && tile.done < tile.total) say(`${tile.done} of ${tile.total} tiles`);
}

export function showFigures(result) {
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

/** The same list for both sides. */
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
