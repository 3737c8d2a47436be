// The worker: everything that takes long. One message in, one answer with its `id`; tiles come in between.

import { Cancelled, enlarge, median, reductionFor } from "./enlarge.js";
import { UnusableModel } from "./onnx_file.js";
import { Picture, UnusablePicture } from "./picture.js";
import { planesFromRgba, rgbaFromPlanes } from "./pixels.js";
import { bicubicNetwork, openNetwork } from "./network.js";
import { ENGINES, choose, firstLine, runtimeFor } from "./runtime.js";
import { roundedUp } from "./tiling.js";

const MEASURED_SIDE = 64;
const MEASURED_RUNS = 7;

const SAMPLED_SIDE = 64;
const SAMPLED_RUNS = 5;
const SAMPLED_MS = 1500;

let choice = null;
let ort = null;
let picture = null;
let network = null;
let networkName = null;
const stopped = new Set();

const actions = { setup, open, picture: takePicture, part, run, frame, measure, sample };
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.action === "stop") stopped.add(data.run);
  else queue = queue.then(() => answer(data));
};

async function answer({ id, action, ...request }) {
  try {
    const [value, transfer] = await actions[action](request, id);
    self.postMessage({ id, value }, transfer ?? []);
  } catch (error) {
    self.postMessage({ id, error: inWords(error), cancelled: error instanceof Cancelled });
  }
  stopped.delete(id);
}

function inWords(error) {
  if (error instanceof UnusableModel || error instanceof UnusablePicture) return error.message;
  if (error instanceof Cancelled) return "Cancelled.";
  if (/out of memory|allocation failed|bad_alloc|Array buffer/i.test(error?.message ?? "")) {
    return "There was not enough memory. Close other tabs, or enlarge a part of the picture.";
  }
  return `This failed: ${firstLine(error)}`;
}

async function setup({ options }) {
  choice = await choose(options);
  try {
    ort = await runtimeFor(choice);
  } catch (error) {
    if (choice.engine === "wasm") throw error;
    await onTheProcessor(error, options);
  }
  return [choice];
}

/** Continue with WebAssembly, which runs everywhere, when another engine has failed. */
async function onTheProcessor(error, options) {
  const name = ENGINES[choice.engine];
  const reason = `${name} is available but failed: ${firstLine(error)}`;
  choice = await choose({ ...options, engine: "wasm" });
  choice.why = [reason, ...choice.why.filter((each) => !each.includes(name))];
  ort = await runtimeFor(choice);
}

/** Only one network is open: a phone has no memory for more. */
async function open({ name, bytes, entry, options }) {
  await shut();
  const content = new Uint8Array(bytes);
  try {
    network = await openNetwork(ort, choice, content, name, entry);
  } catch (error) {
    if (choice.engine === "wasm") throw error;
    await onTheProcessor(error, options);
    network = await openNetwork(ort, choice, content, name, entry);
  }
  networkName = name;
  return [{ facts: network.facts, choice }];
}

async function shut() {
  await network?.release();
  network = null;
  networkName = null;
  return [null];
}

/** The old picture stays if the new one cannot be read, or is no longer needed by then. */
async function takePicture({ blob }, id) {
  const next = await Picture.from(blob);
  if (stopped.has(id)) {
    next.close();
    throw new Cancelled();
  }
  picture?.close();
  picture = next;
  return [{ width: picture.width, height: picture.height }];
}

async function part({ region }) {
  const next = await picture.part(region);
  picture.close();
  picture = next;
  return [{ width: picture.width, height: picture.height }];
}

/** `with`: "bicubic" with a scale, "look" (drawn by the browser at once), or the network that is open. */
async function run({ with: what, scale, png, tile }, id) {
  if (what === "look") {
    const reduction = reductionFor(picture.width * scale, picture.height * scale);
    const wide = Math.ceil((picture.width * scale) / reduction);
    const image = picture.drawn(wide, Math.ceil((picture.height * scale) / reduction));
    return [{ image }, [image]];
  }
  const chosen = what === "bicubic" ? bicubicNetwork(scale) : network;
  if (!chosen) throw new UnusableModel("No model is open.");
  return [
    await enlarge(picture, chosen, { png, tile }, {
      stopped: () => stopped.has(id),
      begun: (total) => self.postMessage({ id, begun: { total } }),
      tile: (painted) => self.postMessage({ id, tile: painted }, [painted.rgba.buffer]),
    }),
  ];
}

/** One picture of the camera, small: no tiles, no file. `with` as in `run`. */
async function frame({ image, with: what, scale }) {
  const { width, height } = image;
  const live = new Picture(image);
  try {
    const chosen = what === "bicubic" ? bicubicNetwork(scale) : network;
    if (!chosen) throw new UnusableModel("No model is open.");
    const began = performance.now();
    const planes = live.window(0, 0, width, height);
    const sr = await chosen.run(planes, width, height);
    const size = { width: width * chosen.facts.scale, height: height * chosen.facts.scale };
    const rgba = rgbaFromPlanes(sr, size.width, size.height, { left: 0, top: 0, ...size });
    const before = rgbaFromPlanes(planes, width, height, { left: 0, top: 0, width, height });
    const value = { rgba, ...size, before, from: { width, height }, ms: performance.now() - began };
    return [value, [rgba.buffer, before.buffer]];
  } finally {
    live.close();
  }
}

/**
 * Time `run` after one run to warm up: the times in ms of at most `runs`, of fewer if they take longer than `limit` ms, but of one
 * at least; and what the last one gave.
 */
async function timed(run, runs, limit = Infinity) {
  const times = [];
  let sr = await run();
  const ends = performance.now() + limit;
  while (!times.length || (times.length < runs && performance.now() < ends)) {
    const began = performance.now();
    sr = await run();
    times.push(performance.now() - began);
  }
  return { times, sr };
}

/** Measure the open network on an image of `size`, else on a tile of 64 x 64, to compare devices. */
async function measure({ size, runs = MEASURED_RUNS, limit }) {
  if (!network) throw new UnusableModel("No model is open.");
  const { fixed, least, multiple, channels } = network.facts;
  const length = roundedUp(Math.max(MEASURED_SIDE, least), multiple);
  const [width, height] = size ?? fixed ?? [length, length];
  const noise = Uint8ClampedArray.from({ length: width * height * 4 }, (_, i) => (i * 2654435761) >>> 24);
  const planes = planesFromRgba(noise, width * height).slice(0, channels * width * height);
  const { times } = await timed(() => network.infer(planes, width, height), runs, limit);
  const { engine, threads } = choice;
  const { web: version } = ort.env.versions;
  return [{ name: networkName, width, height, ms: median(times), least: Math.min(...times), times, engine, threads, version }];
}

/**
 * Run the open network on a part of the picture around a point (shares of its sides), so that networks and engines can be
 * compared: what it gives, and the times of some runs after one to warm up, fewer on a slow device.
 */
async function sample({ at: [across, down] = [0.5, 0.5] }) {
  if (!network) throw new UnusableModel("No model is open.");
  const { facts } = network;
  const length = (side) => roundedUp(Math.max(Math.min(SAMPLED_SIDE, side), facts.least), facts.multiple);
  const [width, height] = facts.fixed ?? [length(picture.width), length(picture.height)];
  const begin = (share, side, covered) => Math.max(0, Math.min(Math.round(share * side - covered / 2), side - covered));
  const planes = picture.window(begin(across, picture.width, width), begin(down, picture.height, height), width, height);
  const { times, sr } = await timed(() => network.run(planes, width, height), SAMPLED_RUNS, SAMPLED_MS);
  const size = { width: width * facts.scale, height: height * facts.scale };
  const rgba = rgbaFromPlanes(sr, size.width, size.height, { left: 0, top: 0, ...size });
  return [{ rgba, ...size, from: { width, height }, ms: Math.min(...times), engine: choice.engine }, [rgba.buffer]];
}
