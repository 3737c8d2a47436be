// The part of protobuf that reading an ONNX file's outline needs. Every length is checked against the available bytes.

export class Malformed extends Error {}

const text = new TextDecoder();

/** Yield the fields of one message: number, wire type, and the value (a number, or bytes). */
export function* fields(bytes) {
  const reader = { bytes, at: 0 };
  while (reader.at < bytes.length) {
    const key = varint(reader);
    const number = Math.floor(key / 8);
    const wire = key % 8;
    if (number < 1) throw new Malformed("field number 0");
    if (wire === 0) yield { number, wire, value: varint(reader) };
    else if (wire === 1) yield { number, wire, value: take(reader, 8) };
    else if (wire === 2) yield { number, wire, value: take(reader, varint(reader)) };
    else if (wire === 5) yield { number, wire, value: take(reader, 4) };
    else throw new Malformed(`wire type ${wire}`);
  }
}

/** Return the fields by number, as lists of values. */
export function message(bytes) {
  const byNumber = new Map();
  for (const { number, value } of fields(bytes)) {
    if (!byNumber.has(number)) byNumber.set(number, []);
    byNumber.get(number).push(value);
  }
  return {
    all: (number) => byNumber.get(number) ?? [],
    bytes: (number) => (byNumber.get(number) ?? []).filter((value) => value instanceof Uint8Array),
    text: (number) => string(byNumber.get(number)?.at(-1)),
    number: (number) => {
      const value = byNumber.get(number)?.at(-1);
      return typeof value === "number" ? value : undefined;
    },
    /** A repeated integer field, packed or not. */
    integers: (number) => (byNumber.get(number) ?? []).flatMap((value) => (typeof value === "number" ? value : packed(value))),
  };
}

export function string(bytes) {
  return bytes instanceof Uint8Array ? text.decode(bytes) : "";
}

/** Return packed integers. */
export function packed(bytes) {
  const reader = { bytes, at: 0 };
  const values = [];
  while (reader.at < bytes.length) values.push(varint(reader));
  return values;
}

function take(reader, length) {
  const end = reader.at + length;
  if (end > reader.bytes.length) throw new Malformed("a length beyond the end of the file");
  const value = reader.bytes.subarray(reader.at, end);
  reader.at = end;
  return value;
}

/** Numbers above 2^53 (also negative ones) become approximate: none that matters here is so large. */
function varint(reader) {
  let value = 0;
  let factor = 1;
  for (let i = 0; i < 10; i++) {
    if (reader.at >= reader.bytes.length) throw new Malformed("the file ends within a number");
    const byte = reader.bytes[reader.at++];
    value += (byte & 127) * factor;
    if (byte < 128) return value;
    factor *= 128;
  }
  throw new Malformed("a number of more than ten bytes");
}
