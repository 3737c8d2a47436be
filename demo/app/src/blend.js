// A network between the two ends of a student: (1 - a)·F + a·T of the weights of their files.

import { UnusableModel, weightsOf } from "./onnx_file.js";

const FLOAT = 1;

/** Return the bytes of `faithful` with weights that lie the part `strength` of the way to those of `textured`. */
export function blended(faithful, textured, strength) {
  const bytes = new Uint8Array(faithful.slice(0));
  const others = weightsOf(new Uint8Array(textured));
  const own = weightsOf(bytes);
  if (own.length !== others.length) throw new UnusableModel("The two files of this network are not of one kind.");
  own.forEach(({ name, type, raw }, i) => {
    const other = others[i];
    if (other.name !== name || other.raw?.length !== raw?.length) {
      throw new UnusableModel(`The two files of this network differ in ${name}.`);
    }
    if (type === FLOAT && raw) mix(raw, other.raw, strength);
  });
  return bytes.buffer;
}

/** Files hold numbers at any byte, and in little-endian order. */
function mix(raw, other, strength) {
  const own = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const to = new DataView(other.buffer, other.byteOffset, other.byteLength);
  for (let at = 0; at < raw.byteLength; at += 4) {
    const from = own.getFloat32(at, true);
    own.setFloat32(at, from + strength * (to.getFloat32(at, true) - from), true);
  }
}
