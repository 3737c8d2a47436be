// Enlarges a picture with a network, tile by tile: each tile is painted at once, the PNG is written strip by strip.
//
// Memory: the decoded photo (4 bytes a pixel), one strip of output (4 bytes x width x tile height), the feature maps of
// one window (FEATURE_BYTES), and the preview on the page. The whole output is never in memory.

import { canStreamPng, PngWriter } from "./png.js";
import { rgbaFromPlanes } from "./pixels.js";
import { fixedMargin, fixedSpans, spans, tileWithin, roundedUp, UNBOUNDED_OVERLAP } from "./tiling.js";

/** The limit of one window's feature maps, as computed in `tileWithin`. */
export const FEATURE_BYTES = 192 * 2 ** 20;

/**
 * Results up to SHOWN_PIXELS are shown in full (Safari's canvases hold 16 MP). Larger ones are shown reduced to at most
 * REDUCED_PIXELS and saved in full: a browser keeps several copies of a canvas that changes.
 */
const SHOWN_PIXELS = 8e6;
const REDUCED_PIXELS = 4e6;

export class Cancelled extends Error {}

/** The reduction with which an output of this many pixels is shown, averaged over blocks. */
export function reductionFor(width, height) {
  const pixels = width * height;
  return pixels <= SHOWN_PIXELS ? 1 : Math.ceil(Math.sqrt(pixels / REDUCED_PIXELS));
}

/** The windows of a picture of width x height for a network, and whether their seams are exact. */
export function plan(width, height, facts, reduction, tile = 0) {
  if (facts.fixed) {
    const across = fixedMargin(facts.radius, facts.fixed[0]);
    const down = fixedMargin(facts.radius, facts.fixed[1]);
    return {
      columns: fixedSpans(width, facts.fixed[0], across.margin),
      rows: fixedSpans(height, facts.fixed[1], down.margin),
      exact: (across.exact || facts.fixed[0] >= width) && (down.exact || facts.fixed[1] >= height),
    };
  }
  const { multiple = 1, least = 1 } = facts;
  const margin = roundedUp(facts.radius ?? UNBOUNDED_OVERLAP, multiple);
  const side = tile || tileWithin(FEATURE_BYTES, facts.width, facts.scale, margin);
  // For sizes that the network cannot take, the picture is reflected at its end and the result is cropped.
  const cut = (size) =>
    spans(roundedUp(Math.max(size, least), multiple), side, margin, reduction * multiple)
      .filter(({ start }) => start < size)
      .map((span) => ({ ...span, stop: Math.min(span.stop, size) }));
  const columns = cut(width);
  const rows = cut(height);
  return { columns, rows, exact: facts.radius !== null || columns.length * rows.length === 1 };
}

/**
 * Run the network. `on.begun(total)` comes before the first tile. `on.tile({x, y, width, height, rgba, done, total, ms})` paints a (reduced) tile; `on.stopped()` true ends the
 * work with `Cancelled`. Resolves to { blob, tiles, medianMs, seconds, exact, window }; `blob` null without `png`.
 */
export async function enlarge(picture, network, { png, tile }, on) {
  const { scale } = network.facts;
  const width = picture.width * scale;
  const height = picture.height * scale;
  const reduction = reductionFor(width, height);
  const { columns, rows, exact } = plan(picture.width, picture.height, network.facts, reduction, tile);
  const total = columns.length * rows.length;
  const writer = png && canStreamPng ? new PngWriter(width, height) : null;
  const tallest = Math.max(...rows.map(({ start, stop }) => stop - start)) * scale;
  const whole = writer && new Uint8ClampedArray(width * tallest * 4);
  const times = [];
  const began = performance.now();
  try {
    on.begun(total);
    for (const row of rows) {
      const tall = (row.stop - row.start) * scale;
      const strip = whole?.subarray(0, width * tall * 4);
      for (const column of columns) {
        if (on.stopped()) throw new Cancelled();
        const { rgba, wide, ms } = await oneTile(picture, network, row, column);
        times.push(ms);
        const left = column.start * scale;
        if (strip) copyInto(strip, width, rgba, wide, left);
        const shown = reduced(rgba, wide, tall, reduction);
        on.tile({ ...shown, x: left / reduction, y: (row.start * scale) / reduction, done: times.length, total, ms });
        await breath();
      }
      if (writer) await writer.write(strip);
    }
    const blob = writer ? await writer.finish() : null;
    const seconds = (performance.now() - began) / 1000;
    return { blob, tiles: total, medianMs: median(times), seconds, exact, window: [columns[0].length, rows[0].length] };
  } catch (error) {
    writer?.abandon();
    throw error;
  }
}

async function oneTile(picture, network, row, column) {
  const { scale } = network.facts;
  const planes = picture.window(column.begin, row.begin, column.length, row.length);
  const began = performance.now();
  const sr = await network.run(planes, column.length, row.length);
  const ms = performance.now() - began;
  const region = {
    left: (column.start - column.begin) * scale,
    top: (row.start - row.begin) * scale,
    width: (column.stop - column.start) * scale,
    height: (row.stop - row.start) * scale,
  };
  return { rgba: rgbaFromPlanes(sr, column.length * scale, row.length * scale, region), wide: region.width, ms };
}

function copyInto(strip, stride, rgba, width, left) {
  for (let y = 0, from = 0; from < rgba.length; y++, from += width * 4) {
    strip.set(rgba.subarray(from, from + width * 4), (y * stride + left) * 4);
  }
}

function reduced(rgba, width, height, by) {
  if (by === 1) return { rgba, width, height };
  const wide = Math.ceil(width / by);
  const tall = Math.ceil(height / by);
  const small = new Uint8ClampedArray(wide * tall * 4);
  for (let y = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++) {
      const right = Math.min(x * by + by, width);
      const bottom = Math.min(y * by + by, height);
      const sums = [0, 0, 0];
      for (let v = y * by; v < bottom; v++) {
        for (let p = (v * width + x * by) * 4; p < (v * width + right) * 4; p += 4) {
          for (let c = 0; c < 3; c++) sums[c] += rgba[p + c];
        }
      }
      const count = (right - x * by) * (bottom - y * by);
      small.set([sums[0] / count, sums[1] / count, sums[2] / count, 255], (y * wide + x) * 4);
    }
  }
  return { rgba: small, width: wide, height: tall };
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Let messages in between two tiles: a run that never waits would never receive `cancel`. */
const channel = new MessageChannel();
function breath() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}
