// Reads an .onnx file before a runtime opens it: its metadata and its interface, and whether that takes pictures.

import { Malformed, fields, message, packed, string } from "./protobuf.js";
import { receptiveRadius } from "./receptive_field.js";

/** ONNX's numbers for the element types of pictures. */
const TYPES = { 1: "float32", 2: "uint8", 3: "int8", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16" };
const WEIGHT_TYPES = { 1: "fp32", 10: "fp16", 16: "bf16" };
const EXTERNAL = 1;
const INT64 = 7;

/** A model that the app cannot use, with the reason. */
export class UnusableModel extends Error {}

/**
 * Facts about a file: `metadata` (all its keys), `channels`, `type`, `fixed` ([width, height] or null), `radius` (null:
 * unbounded), `width` (the widest feature map), `precision`, `about` (what it says of itself), `weights` (their number).
 * Throws `UnusableModel` if it takes no pictures.
 */
export function describeOnnx(bytes, name) {
  try {
    return described(outlineOf(bytes), name);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new UnusableModel(`${name} is not an ONNX file, or it is damaged (${error.message}).`);
  }
}

/** The weights of a file: views of its bytes. */
export function weightsOf(bytes) {
  return message(message(bytes).bytes(7).at(-1) ?? new Uint8Array()).bytes(5).map(weight);
}

function outlineOf(bytes) {
  const model = message(bytes);
  const graph = model.bytes(7).at(-1);
  if (!graph || model.number(1) === undefined || !model.bytes(8).length) throw new Malformed("no graph in it");
  const parts = message(graph);
  const opset = model.bytes(8).map(message).find((each) => !each.text(1));
  const weights = parts.bytes(5).map(weight);
  const constants = new Set(weights.map((each) => each.name));
  return {
    about: {
      producer: [model.text(2), model.text(3)].filter(Boolean).join(" "),
      graph: parts.text(2),
      description: model.text(6) || parts.text(10),
      opset: opset?.number(2),
    },
    metadata: Object.fromEntries(model.bytes(14).map((pair) => [message(pair).text(1), message(pair).text(2)])),
    nodes: parts.bytes(1).map(node),
    weights,
    inputs: parts.bytes(11).map(port).filter((each) => !constants.has(each.name)),
    outputs: parts.bytes(12).map(port),
  };
}

function described(outline, name) {
  const { inputs, outputs, weights, nodes, metadata } = outline;
  if (inputs.length !== 1 || outputs.length !== 1) {
    throw new UnusableModel(
      `${name} has ${counted(inputs.length, "input")} and ${counted(outputs.length, "output")}; ` +
        "a super-resolution model has one each.",
    );
  }
  if (weights.some((each) => each.external)) {
    throw new UnusableModel(`${name} keeps its weights in a second file; export it again as one file.`);
  }
  const [input] = inputs;
  const [batch, channels, height, width] = input.shape;
  if (!["float32", "float16"].includes(input.type)) {
    throw new UnusableModel(`${name} takes ${input.type}; the app feeds float32 or float16 in [0,1]: export it without --io.`);
  }
  if (input.shape.length !== 4 || ![1, 3].includes(channels)) {
    const shape = input.shape.map((size) => size ?? "?").join(" × ");
    throw new UnusableModel(`${name} takes ${shape || "a single number"}; expected N × 3 × H × W or N × 1 × H × W.`);
  }
  if (![undefined, 1].includes(batch)) {
    throw new UnusableModel(`${name} takes ${batch} pictures at a time; the app has one.`);
  }
  if ((width === undefined) !== (height === undefined)) {
    throw new UnusableModel(`${name} fixes its width or its height, but not both; the app takes both or neither.`);
  }
  const scale = Number(metadata["srkd.scale"]);
  return {
    metadata,
    input: input.name,
    output: outputs[0].name,
    type: input.type,
    channels,
    fixed: width === undefined ? null : [width, height],
    scale: Number.isInteger(scale) && scale > 0 ? scale : null,
    radius: receptiveRadius(nodes, weights, input.name, outputs[0].name),
    width: Math.max(channels, ...weights.filter((each) => each.dims.length === 4).map((each) => each.dims[1])),
    precision: precisionOf(nodes, weights),
    about: { ...outline.about, input: portWords(input), output: portWords(outputs[0]) },
    weights: weights.filter(({ type, dims }) => dims.length && type !== INT64).reduce((sum, { dims }) => sum + product(dims), 0),
  };
}

function portWords({ name, type, shape }) {
  return `${name}, ${type}, ${shape.map((size) => size ?? "?").join(" × ")}`;
}

function product(dims) {
  return dims.reduce((all, size) => all * size, 1);
}

function counted(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

function precisionOf(nodes, weights) {
  if (nodes.some((each) => /QuantizeLinear|Integer$|^QLinear/.test(each.op))) return "int8";
  const sizes = {};
  for (const { type, dims } of weights) {
    if (dims.length > 1) sizes[type] = (sizes[type] ?? 0) + product(dims);
  }
  const largest = Object.keys(sizes).sort((a, b) => sizes[b] - sizes[a])[0];
  return WEIGHT_TYPES[largest] ?? "fp32";
}

function node(bytes) {
  const proto = message(bytes);
  const attributes = {};
  for (const each of proto.bytes(5)) {
    const attribute = message(each);
    attributes[attribute.text(1)] = {
      integer: attribute.number(3),
      integers: attribute.integers(8),
      text: attribute.text(4),
    };
  }
  return {
    op: proto.text(4),
    inputs: proto.bytes(1).map(string),
    outputs: proto.bytes(2).map(string),
    attributes,
  };
}

/** Return name, type and shape of a tensor, and the values of small ones, which Resize and Gather need. */
function weight(bytes) {
  const tensor = { dims: [], type: 0, name: "", external: false, raw: null, floats: null };
  for (const { number, value } of fields(bytes)) {
    if (number === 1) tensor.dims.push(...(typeof value === "number" ? [value] : packed(value)));
    else if (number === 2) tensor.type = value;
    else if (number === 4) tensor.floats = value;
    else if (number === 8) tensor.name = string(value);
    else if (number === 9) tensor.raw = value;
    else if (number === 14) tensor.external = value === EXTERNAL;
  }
  return tensor;
}

function port(bytes) {
  const proto = message(bytes);
  const tensor = message(message(proto.bytes(2)[0] ?? new Uint8Array()).bytes(1)[0] ?? new Uint8Array());
  const shape = message(tensor.bytes(2)[0] ?? new Uint8Array());
  return {
    name: proto.text(1),
    type: TYPES[tensor.number(1)] ?? "something that is not a picture",
    shape: shape.bytes(1).map((dimension) => message(dimension).number(1) || undefined),
  };
}
