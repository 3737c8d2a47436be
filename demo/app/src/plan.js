// The files of `srkd plan --emit` on this device: their times, in turns, as a table and as measured.json.

import { median } from "./enlarge.js";
import { number, size } from "./format.js";
import { bytesOf } from "./models.js";
import { browserName, element, engineOn, part } from "./panel.js";
import { ENGINES } from "./runtime.js";

/** The first round does not count: a browser goes on compiling an engine while it runs. */
const COUNTED = 8;
export const ROUNDS = 1 + COUNTED;

/** A slow file takes no further turn once it ran for FILE_MS in LEAST_ROUNDS that count. */
const LEAST_ROUNDS = 3;
const FILE_MS = 4000;

/** In a turn a file runs as often as this, or for as long. */
const RUNS = 20;
const TURN_MS = 150;

const SCHEMA = "srkd.plan-measured/1";
const IN_FRONT = "The page was not in front, and browsers slow such a page down: no time was kept. Time them once more, and keep it in front.";

/** What the worker measures in a turn. */
export function turnOf({ width, height }) {
  return { size: [width, height], runs: RUNS, limit: TURN_MS };
}

export function isEnough({ found }) {
  return found.length > LEAST_ROUNDS && sum(found.flatMap(({ times }) => times)) > FILE_MS;
}

/** Resolves to the models with their bytes in memory, so that no network is waited for between two turns. */
export async function loaded(models, signal, onLoad) {
  const files = [];
  for (const model of models) {
    onLoad(model, files.length);
    files.push({ ...model, file: new Blob([await bytesOf(model, signal)]) });
  }
  return files;
}

/** Run `work` with the screen on. If the page goes to the background meanwhile, `stop(why)` is called: times would be wrong. */
export async function inFront(work, stop) {
  const lock = await navigator.wakeLock?.request("screen").catch(() => null);
  const leave = () => document.hidden && stop(IN_FRONT);
  document.addEventListener("visibilitychange", leave);
  try {
    return await work();
  } finally {
    document.removeEventListener("visibilitychange", leave);
    lock?.release();
  }
}

/**
 * Return a row's time as run.py writes it: the median of all runs, and the least and largest median of a round; of all rounds
 * the quickest and the slowest are left out, which other work on the device may have spoilt.
 */
export function timeOf({ found, failed }) {
  if (failed) return { failed };
  const counted = found.length > 1 ? found.slice(1) : found;
  const ms = median(counted.flatMap(({ times }) => times));
  if (!(ms > 0)) return { failed: "it is faster than this browser's clock can tell" };
  const rounds = counted.map(({ times }) => median(times)).sort((a, b) => a - b);
  const cut = counted.length < COUNTED ? 0 : 1;
  return { ms, low: rounds[cut], high: rounds.at(-1 - cut) };
}

/** Resolves to measured.json, which `srkd plan --measured` reads. */
export async function measuredFile(plan, rows, choice) {
  const measured = {
    schema: SCHEMA,
    plan: plan.id,
    threads: choice.engine === "wasm" ? choice.threads : null,
    provider: ENGINES[choice.engine],
    machine: await machineName(choice),
    onnxruntime: rows.flatMap(({ found }) => found)[0]?.version ?? null,
    rows: Object.fromEntries(rows.map((row) => [row.model.name, timeOf(row)])),
  };
  return new File([JSON.stringify(measured, null, 2)], "measured.json", { type: "application/json" });
}

/** Resolves to the device's model, the browser, and what computes, as far as the browser says them. */
async function machineName(choice) {
  const { model } = (await navigator.userAgentData?.getHighEntropyValues(["model"]).catch(() => null)) ?? {};
  const on = choice.engine === "wasm" ? `${navigator.hardwareConcurrency} cores` : engineOn(choice);
  return [model, browserName() || navigator.userAgent, on].filter(Boolean).join(", ");
}

/** Turn the page into that of a plan. */
export function showPlan(plan, models) {
  document.body.dataset.mode = "plan";
  part("plan").hidden = false;
  const target = plan.target_ms ? ` ✓ is within the plan’s target of ${number(plan.target_ms)} ms.` : "";
  part("plan-words").textContent = `${models.length} networks of srkd plan, untrained: training does not change their speed. In turns, each enlarges an image of ${size(plan.width, plan.height).replaceAll(" ", "\u00a0")}.${target} Keep this page in front until it is done.`;
  part("details").open = true;
  clearTimes(models);
}

/** Say on the button which engine computes. */
export function nameEngine({ engine }) {
  part("time-plan").textContent = `Time them on ${ENGINES[engine]}`;
}

/** Forget the times, as of another engine. */
export function clearTimes(models) {
  offerSave(false);
  part("plan-result").textContent = "";
  part("plan-times").tBodies[0].replaceChildren(...models.map((model) => line({ model, found: [], failed: null })));
}

/** Show what a row has so far in its line of the table. */
export function showTime(plan, rows, row) {
  part("plan-times").tBodies[0].rows[rows.indexOf(row)].replaceWith(line(row, plan.target_ms));
}

export function showTimed(rows, choice) {
  const timed = rows.filter((row) => !timeOf(row).failed).length;
  offerSave(timed > 0);
  part("plan-result").textContent = `${timed} of ${rows.length} were timed on ${ENGINES[choice.engine]} (${engineOn(choice)}). `;
  if (timed) part("plan-result").append("Save the times; then, where the plan is: ", element("code", "srkd plan --measured measured.json --emit FOLDER"));
}

/** The button that comes next stands out. */
function offerSave(isTimed) {
  part("save-plan").hidden = !isTimed;
  part("time-plan").classList.toggle("strong", !isTimed);
}

function line(row, target) {
  const time = row.failed || row.found.length ? timeOf(row) : null;
  const within = time?.ms <= target;
  const tr = document.createElement("tr");
  if (within) tr.className = "best";
  tr.append(element("th", `${within ? "✓ " : ""}${row.model.name}`));
  tr.firstChild.scope = "row";
  if (!time) tr.append(element("td", "–"), element("td", ""), element("td", ""));
  else if (time.failed) {
    const words = element("td", `does not run: ${time.failed}`);
    Object.assign(words, { colSpan: 3, className: "small" });
    tr.append(words);
  } else {
    const range = `${number(time.low)}–${number(time.high)}`;
    tr.append(...[number(time.ms), range, number(1000 / time.ms)].map((words) => element("td", words)));
  }
  return tr;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
