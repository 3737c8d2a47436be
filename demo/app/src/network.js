// A model in a session: float planes in, float planes out, whatever type it takes.

import { bicubic, BICUBIC_RADIUS } from "./bicubic.js";
import { UnusableModel, describeOnnx } from "./onnx_file.js";
import { floatsFromHalves, halvesFromFloats, rgbFromYcbcr, ycbcrFromRgb } from "./pixels.js";
import { firstLine, openSession } from "./runtime.js";
import { roundedUp } from "./tiling.js";

const PROBE_SIDE = 16;

/** Bicubic with the interface of a network. */
export function bicubicNetwork(scale) {
  return {
    facts: { scale, radius: BICUBIC_RADIUS, fixed: null, width: 3 },
    run: async (planes, width, height) => bicubic(planes, 3, width, height, scale),
    release: async () => {},
  };
}

/** Open a file's bytes. `entry` is the server's row for it; the file's own facts are checked by a small run. */
export async function openNetwork(ort, choice, bytes, name, entry = {}) {
  const facts = describeOnnx(bytes, name);
  if (Number.isInteger(entry.receptive_radius)) facts.radius = entry.receptive_radius;
  Object.assign(facts, { multiple: entry.size_multiple ?? 1, least: entry.min_size ?? 1 });
  let session;
  try {
    session = await openSession(ort, choice, bytes);
  } catch (error) {
    throw new UnusableModel(`${name} cannot be opened by ONNX Runtime: ${firstLine(error)}`);
  }
  const run = (planes, width, height) => inSession(ort, session, network.facts, planes, width, height);
  const network = {
    facts: { ...facts, bytes: bytes.length },
    run: (planes, width, height) => enlarge(run, network.facts, planes, width, height),
    /** Run the file alone, on as many channels as it has. */
    infer: run,
    release: () => session.release(),
  };
  try {
    await probe(run, network.facts, name);
  } catch (error) {
    await session.release();
    throw error;
  }
  return network;
}

function probeSize({ fixed, least, multiple }) {
  const side = roundedUp(Math.max(PROBE_SIDE, least), multiple);
  return fixed ?? [side, side];
}

/** Run a small grey picture: this gives the scale, and shows that the graph runs. */
async function probe(run, facts, name) {
  const [width, height] = probeSize(facts);
  let sr;
  try {
    sr = await run(new Float32Array(facts.channels * width * height).fill(0.5), width, height);
  } catch (error) {
    throw new UnusableModel(`${name} does not run on a picture of ${width} × ${height}: ${firstLine(error)}`);
  }
  const [, channels, tall, wide] = sr.dims;
  const scale = wide / width;
  const fits = sr.dims.length === 4 && channels === facts.channels && tall === height * scale && Number.isInteger(scale);
  if (!fits || scale < 1) {
    throw new UnusableModel(
      `${name} gives ${sr.dims.join(" × ")} for a picture of ${width} × ${height}: that is not an enlarged picture.`,
    );
  }
  if (facts.scale && facts.scale !== scale) {
    throw new UnusableModel(`${name} says that it enlarges ${facts.scale} times, but it enlarges ${scale} times.`);
  }
  facts.scale = scale;
}

async function enlarge(run, facts, planes, width, height) {
  if (facts.channels === 3) return (await run(planes, width, height)).data;
  const count = width * height;
  const ycbcr = ycbcrFromRgb(planes, count);
  const y = (await run(ycbcr.subarray(0, count), width, height)).data;
  const chroma = bicubic(ycbcr.subarray(count), 2, width, height, facts.scale);
  return rgbFromYcbcr(y, chroma.subarray(0, y.length), chroma.subarray(y.length));
}

async function inSession(ort, session, facts, planes, width, height) {
  const half = facts.type === "float16";
  const dims = [1, facts.channels, height, width];
  const lr = new ort.Tensor(facts.type, half ? halvesFromFloats(planes) : planes, dims);
  const outputs = await session.run({ [facts.input]: lr });
  const sr = outputs[facts.output];
  const { type } = sr;
  if (!["float32", "float16"].includes(type)) throw new Error(`it gives ${type} instead of float32 or float16`);
  const raw = await sr.getData();
  const data = type === "float16" ? floatsOf(raw) : raw;
  sr.dispose();
  return { data, dims: sr.dims };
}

/** Browsers with Float16Array return numbers, the others bits. */
function floatsOf(halves) {
  return halves instanceof Uint16Array ? floatsFromHalves(halves) : Float32Array.from(halves);
}
