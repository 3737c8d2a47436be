// Reads the receptive radius of a network from its graph: tiles with that margin have no seams.
//
// Each tensor has a reach in input pixels and a resolution relative to the input. Operations on single pixels keep
// both, windows add to the reach what they span at their resolution, shuffles change the resolution. An operation that
// is unknown here, or that mixes the whole picture, makes the answer "unbounded" (null), never a guess.

const POINTWISE = new Set(
  ("Abs Add BatchNormalization Cast Ceil Clip Concat Constant DequantizeLinear Div Dropout Elu Erf Exp Floor Gelu " +
    "HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mish Mul Neg Pow PRelu QuantizeLinear Reciprocal Relu Round " +
    "Selu Sigmoid Sign Softplus Sqrt Sub Sum Tanh ThresholdedRelu").split(" "),
);
/** Pure functions of constants: allowed anywhere as long as no picture goes through them. */
const CONSTANT = { reach: 0, scale: null };

/** Return the radius in whole input pixels, or null if the graph does not give a bound. */
export function receptiveRadius(nodes, weights, input, output) {
  const reaches = new Map([[input, { reach: 0, scale: 1 }]]);
  const shapes = new Map(weights.map((each) => [each.name, each]));
  for (const node of nodes) {
    const [from] = node.inputs;
    if (node.op === "DequantizeLinear" && shapes.has(from)) shapes.set(node.outputs[0], shapes.get(from));
    const pictures = node.inputs.map((name) => reaches.get(name)).filter((each) => each && each.scale !== null);
    const after = pictures.length ? through(node, pictures, shapes) : CONSTANT;
    if (after === null) return null;
    for (const name of node.outputs) reaches.set(name, after);
  }
  const end = reaches.get(output);
  return end && end.scale !== null ? Math.ceil(end.reach - 1e-9) : null;
}

function through(node, pictures, shapes) {
  const { scale } = pictures[0];
  if (pictures.some((each) => each.scale !== scale)) return null;
  const reach = Math.max(...pictures.map((each) => each.reach));
  if (POINTWISE.has(node.op)) {
    return node.op === "Concat" && ![1, undefined].includes(node.attributes.axis?.integer) ? null : { reach, scale };
  }
  if (node.op === "Conv" || node.op === "QLinearConv") return convolution(node, reach, scale, shapes);
  if (node.op === "Slice" || node.op === "Split") return channelsOnly(node, reach, scale, shapes);
  if (node.op === "DepthToSpace") return { reach, scale: scale * (node.attributes.blocksize?.integer ?? NaN) };
  if (node.op === "SpaceToDepth") {
    const block = node.attributes.blocksize?.integer ?? NaN;
    return { reach: reach + (block - 1) / scale, scale: scale / block };
  }
  if (node.op === "Resize") return resize(node, reach, scale, shapes);
  return null;
}

function convolution(node, reach, scale, shapes) {
  const integers = (name) => node.attributes[name]?.integers ?? [];
  const kernel = integers("kernel_shape").length
    ? integers("kernel_shape")
    : shapes.get(node.inputs[node.op === "Conv" ? 1 : 3])?.dims.slice(2);
  if (!kernel || kernel.length !== 2) return null;
  if (integers("strides").some((stride) => stride !== 1)) return null;
  const spans = kernel.map((size, axis) => (size - 1) * (integers("dilations")[axis] ?? 1));
  const pads = integers("pads");
  // One side may be padded more than the other: the longer side counts.
  const sides = spans.flatMap((span, axis) => [pads[axis] ?? 0, span - (pads[axis] ?? 0)]);
  if (node.attributes.auto_pad?.text?.startsWith("SAME")) return { reach: reach + Math.max(...spans.map((s) => Math.ceil(s / 2))) / scale, scale };
  // Without padding the picture shrinks, and its pixels are no longer where tiling expects them.
  if (spans.some((span, axis) => (pads[axis] ?? 0) + (pads[axis + 2] ?? 0) !== span)) return null;
  return { reach: reach + Math.max(...sides) / scale, scale };
}

function channelsOnly(node, reach, scale, shapes) {
  if (node.op === "Split") return node.attributes.axis?.integer === 1 ? { reach, scale } : null;
  const axes = shapes.get(node.inputs[3])?.raw;
  return axes && axes.length === 8 && axes[0] === 1 ? { reach, scale } : null;
}

/** Whole factors by nearest, linear or cubic: at most two pixels to each side. */
function resize(node, reach, scale, shapes) {
  const factors = shapes.get(node.inputs[2]);
  const bytes = factors?.raw ?? factors?.floats;
  if (!bytes || bytes.length !== 16) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  const [batch, channels, tall, wide] = [0, 4, 8, 12].map((at) => view.getFloat32(at, true));
  if (batch !== 1 || channels !== 1 || tall !== wide || tall < 1 || !Number.isInteger(tall)) return null;
  const side = { linear: 1, cubic: 2 }[node.attributes.mode?.text] ?? 1;
  return { reach: reach + side / scale, scale: scale * tall };
}
