// The same network in several precisions and engines, measured in turns on the picture: the fastest that is exact enough.

import { bits, number } from "./format.js";
import { element, part } from "./panel.js";
import { ENGINES } from "./runtime.js";
import { inTurns } from "./turns.js";

/** PSNR in dB to the most precise result from which on images count as equal: MIN_PSNR_TO_SOURCE of srkd export. */
export const EXACT_ENOUGH_DB = 40;

const PRECISIONS = ["fp32", "fp16", "bf16", "int8"];

const ROUNDS = 3;

/** Return the files of a model's network in different precisions, the most precise one first. */
export function familyOf(model, models) {
  const source = sourceOf(model);
  const alike = (other) => other === model || (source && sourceOf(other) === source && other.scale === model.scale);
  const ordered = [model, ...models.filter((other) => other !== model && alike(other))];
  const family = ordered.filter(({ precision }, i) => ordered.findIndex((each) => each.precision === precision) === i);
  return family.sort((a, b) => PRECISIONS.indexOf(a.precision) - PRECISIONS.indexOf(b.precision));
}

function sourceOf({ facts, metadata }) {
  return (facts?.metadata ?? metadata)?.["srkd.source_sha256"];
}

/**
 * Measure each model on each engine. `use(engine)` switches, `sample(model)` opens a model and resolves to what the
 * worker's `sample` gives. Resolves to rows { model, engine, ms, db (null: the reference), failed (a reason) }; the
 * reference is the most precise file on WebAssembly, which computes in the order of Python's ONNX Runtime.
 */
export async function compared(family, engines, { use, sample, onTurn }) {
  const ordered = ["wasm", ...engines.filter((engine) => engine !== "wasm")];
  const rows = ordered.flatMap((engine) => family.map((model) => ({ engine, model })));
  await inTurns(rows, ROUNDS, { use, once: ({ model }) => sample(model), onTurn });
  const reference = rows.find(({ found }) => found.length)?.found[0];
  for (const row of rows) {
    row.ms = Math.min(...row.found.map(({ ms }) => ms));
    row.db = row === rows[0] || !row.found.length ? null : psnr(row.found.at(-1), reference);
  }
  return rows;
}

/** Return the PSNR in dB between two pictures of 8-bit RGBA, over red, green and blue; Infinity if they are equal. */
export function psnr(one, other) {
  if (one.width !== other.width || one.height !== other.height) return NaN;
  let sum = 0;
  for (let i = 0; i < one.rgba.length; i++) if (i % 4 !== 3) sum += (one.rgba[i] - other.rgba[i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / (one.width * one.height * 3)));
}

export function isExactEnough({ db, failed }) {
  return !failed && (db === null || db >= EXACT_ENOUGH_DB);
}

/** Return the row of the least time among those that are exact enough; undefined if every one failed. */
export function fastest(rows) {
  return rows.filter(isExactEnough).sort((a, b) => a.ms - b.ms)[0];
}

/** Offer the comparison if there is something to compare. */
export function offerComparison(family, engines) {
  part("precisions").hidden = family.length * engines.length < 2;
  const kinds = family.length > 1 ? `in numbers of ${listed(family.map(({ precision }) => bits(precision)))}` : "";
  const where = engines.length > 1 ? `on ${listed(engines.map((engine) => ENGINES[engine]))}` : "";
  const words = [kinds, where].filter(Boolean).join(" and ");
  part("precisions-words").textContent = `This network can run ${words}. Fewer bits may be faster, and change the picture a little.`;
}

export function clearComparison() {
  part("compared").hidden = true;
  part("compared-words").textContent = "";
}

/** Show the rows as a table, and in a sentence which is used from now on. */
export function showComparison(rows) {
  const best = fastest(rows);
  part("compared").hidden = false;
  part("compared").tBodies[0].replaceChildren(...rows.map((row) => line(row, row === best)));
  part("compared-words").textContent = best ? verdict(rows, best) : "None of them runs here.";
  return best;
}

function verdict(rows, best) {
  const name = `${bits(best.model.precision)} on ${ENGINES[best.engine]}`;
  const [reference] = rows;
  const near = best.db === null ? "" : best.db === Infinity ? ", with equal pixels" : `, ${number(best.db)} dB from it`;
  const gain = best === reference || reference.failed ? "" : `: ${number(reference.ms / best.ms)} times as fast as ${bits(reference.model.precision)} on ${ENGINES[reference.engine]}${near}`;
  return `The fastest that is exact enough is used from now on: ${name}${gain}.`;
}

function line(row, isBest) {
  const tr = document.createElement("tr");
  if (isBest) tr.className = "best";
  const cells = [
    `${isBest ? "✓ " : ""}${bits(row.model.precision)}`,
    ENGINES[row.engine],
    row.failed ? "–" : number(row.ms),
    nearness(row),
  ];
  cells.forEach((words, i) => {
    const cell = element(i ? "td" : "th", words);
    if (!i) cell.scope = "row";
    tr.append(cell);
  });
  if (row.failed) tr.title = row.failed;
  return tr;
}

function nearness({ db, failed }) {
  if (failed) return "does not run";
  if (db === null) return "the measure";
  if (Number.isNaN(db)) return "another size";
  if (db === Infinity) return "equal pixels";
  return `${number(db)} dB${db < EXACT_ENOUGH_DB ? ": too far" : ""}`;
}

function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
