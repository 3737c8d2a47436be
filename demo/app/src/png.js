// A PNG written strip by strip: no canvas holds the picture, so its size is limited by storage and not by memory.

const SIGNATURE = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
const PART_BYTES = 1 << 20;

/** The compressor gets small pieces: data that waits for it is in memory twice. */
const ROWS_AT_ONCE = 32;

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

/** True if the browser can compress a stream, which this needs. */
export const canStreamPng = typeof CompressionStream === "function";

export class PngWriter {
  /** RGB of 8 bit, width x height. */
  constructor(width, height) {
    this.width = width;
    this.parts = [new Blob([SIGNATURE, chunk("IHDR", header(width, height))])];
    this.above = new Uint8Array(width * 3);
    const { readable, writable } = new CompressionStream("deflate");
    this.writer = writable.getWriter();
    this.collected = this.#collect(readable.getReader());
    // `finish` or the next `write` reports a failure; without this line it would also be an unhandled rejection.
    this.collected.catch(() => {});
  }

  /** Write the next rows from RGBA bytes, without alpha. Resolves when the compressor has accepted them. */
  async write(rgba) {
    const row = this.width * 4;
    for (let at = 0; at < rgba.length; at += ROWS_AT_ONCE * row) {
      await this.#rows(rgba.subarray(at, at + ROWS_AT_ONCE * row));
    }
  }

  async #rows(rgba) {
    const bytes = this.width * 3;
    const rows = rgba.length / (this.width * 4);
    const filtered = new Uint8Array(rows * (bytes + 1));
    let current = new Uint8Array(bytes);
    for (let y = 0; y < rows; y++) {
      for (let x = 0, p = y * this.width * 4, i = 0; x < this.width; x++, p += 4, i += 3) {
        current[i] = rgba[p];
        current[i + 1] = rgba[p + 1];
        current[i + 2] = rgba[p + 2];
      }
      paeth(current, this.above, filtered, y * (bytes + 1));
      [this.above, current] = [current, this.above];
    }
    await this.writer.ready;
    await this.writer.write(filtered);
  }

  /** Return the file. */
  async finish() {
    await this.writer.close();
    await this.collected;
    return new Blob([...this.parts, chunk("IEND", new Uint8Array(0))], { type: "image/png" });
  }

  /** Cancel, and release what was written. */
  abandon() {
    this.parts = [];
    this.writer.abort().catch(() => {});
  }

  async #collect(reader) {
    let waiting = [];
    let size = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (value) {
        waiting.push(value);
        size += value.length;
      }
      if (size >= PART_BYTES || (done && size)) {
        // One Blob for each part: browsers keep Blobs outside the page's memory, and on disk when they grow.
        this.parts.push(new Blob([chunk("IDAT", joined(waiting, size))]));
        waiting = [];
        size = 0;
      }
      if (done) return;
    }
  }
}

function paeth(row, above, out, at) {
  out[at] = 4;
  for (let i = 0; i < row.length; i++) {
    const a = i < 3 ? 0 : row[i - 3];
    const b = above[i];
    const c = i < 3 ? 0 : above[i - 3];
    const pa = Math.abs(b - c);
    const pb = Math.abs(a - c);
    const pc = Math.abs(a + b - 2 * c);
    out[at + 1 + i] = row[i] - (pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
  }
}

function header(width, height) {
  const bytes = new Uint8Array(13);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  bytes.set([8, 2, 0, 0, 0], 8);
  return bytes;
}

function chunk(kind, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < data.length + 8; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  view.setUint32(data.length + 8, (crc ^ 0xffffffff) >>> 0);
  return bytes;
}

function joined(pieces, size) {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
