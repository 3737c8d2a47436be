// How fast networks are on this device. Two are measured in turns.

import { number, size } from "./format.js";
import { BICUBIC } from "./models.js";
import { inTurns } from "./turns.js";

/** Closer times than this are one time: a phone does more than this by itself. */
const EQUAL = 1.05;

const ROUNDS = 3;

/** Return the networks of both sides, the right one first: one, two different ones, or none. */
export function networksOf({ right, left }) {
  const networks = [right, left].filter((model) => model && model.key !== BICUBIC);
  return networks.filter((model, i) => networks.findIndex(({ key }) => key === model.key) === i);
}

/** Measure a tile by each of one or two models; `once(model)` opens it and resolves to { ms, least, width, height }. */
export async function measured(models, once) {
  const rows = models.map((model) => ({ model, engine: null }));
  await inTurns(rows, models.length === 1 ? 1 : ROUNDS, { once: ({ model }) => once(model) });
  const broken = rows.find(({ failed }) => failed);
  if (broken) throw new Error(broken.failed);
  const times = rows.map(({ model, found }) => {
    const [{ ms, width, height }] = found;
    // Of several the least time counts, which other work on the device spoils least.
    const shown = found.length === 1 ? ms : Math.min(...found.map(({ least }) => least));
    return { title: model.title, ms: shown, size: size(width, height) };
  });
  if (times.length > 1) return words(times);
  return `${times[0].title}: ${number(times[0].ms)} ms for ${times[0].size}`;
}

/** Return the times beside each other, and how many times as fast the faster network is. */
function words(times) {
  const [one, two] = times;
  const each = times.map(({ title, ms }) => `${title} ${number(ms)} ms`).join(", ");
  if (one.size !== two.size) return `${each}, for ${one.size} and ${two.size}`;
  const [fast, slow] = one.ms <= two.ms ? [one, two] : [two, one];
  const ratio = slow.ms / fast.ms;
  const verdict = ratio < EQUAL ? "equally fast" : `${fast.title} is ${number(ratio)} times as fast`;
  return `${each} for ${one.size}: ${verdict}`;
}
