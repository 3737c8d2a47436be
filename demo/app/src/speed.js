// How fast networks are on this device. Two are measured in turns, because a phone slows down as it gets warm.

import { number, size } from "./format.js";
import { BICUBIC } from "./models.js";

/** Closer times than this are one time: a phone does more than this by itself. */
const EQUAL = 1.05;

/** Which of two is measured; of each the least time counts, which other work on the device spoils least. */
const TURNS = [0, 1, 1, 0, 0, 1];

/** Return the networks of both sides, the right one first: one, two different ones, or none. */
export function networksOf({ right, left }) {
  const networks = [right, left].filter((model) => model && model.key !== BICUBIC);
  return networks.filter((model, i) => networks.findIndex(({ key }) => key === model.key) === i);
}

/** Measure a tile by each of one or two models; `once(model)` opens it and resolves to { ms, least, width, height }. */
export async function measured(models, once) {
  if (models.length === 1) {
    const { ms, width, height } = await once(models[0]);
    return `${models[0].title}: ${number(ms)} ms for ${size(width, height)}`;
  }
  const times = models.map((model) => ({ title: model.title, ms: Infinity }));
  for (const i of TURNS) {
    const { least, width, height } = await once(models[i]);
    Object.assign(times[i], { ms: Math.min(times[i].ms, least), size: size(width, height) });
  }
  return words(times);
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
