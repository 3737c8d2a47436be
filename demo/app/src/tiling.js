// Windows of one size, moved inwards at the edges: the same cut as compressor/inference/tiling.py, so it is equally exact.

/** Low-resolution pixels around a tile of a network with an unbounded receptive field. */
export const UNBOUNDED_OVERLAP = 16;

const MIN_TILE = 16;
const MAX_TILE = 256;

/**
 * Cut one axis into tiles of about equal length. Each span contributes [start, stop) and reads [begin, begin + length).
 * Tiles start at multiples of `step`, so that a preview reduced by `step` never mixes two tiles.
 */
export function spans(size, tile, margin, step = 1) {
  if (tile + 2 * margin >= size) return [{ start: 0, stop: size, begin: 0, length: size }];
  const count = Math.ceil(size / roundedUp(tile, step));
  const even = roundedUp(Math.ceil(size / count), step);
  const length = even + 2 * margin;
  if (length >= size) return [{ start: 0, stop: size, begin: 0, length: size }];
  return cut(size, even, margin, length);
}

/** The same for a model that takes one size only. The reader reflects a smaller picture at its end. */
export function fixedSpans(size, length, margin) {
  if (length >= size) return [{ start: 0, stop: size, begin: 0, length }];
  return cut(size, length - 2 * margin, margin, length);
}

/** Return a tile's side such that the feature maps of its window fit into `bytes`, as in compressor/inference/tiling.py. */
export function tileWithin(bytes, channels, scale, margin) {
  const perPixel = 4 * channels * (3 + 2 * scale ** 2);
  const side = Math.floor(Math.sqrt(bytes / perPixel)) - 2 * margin;
  return Math.min(Math.max(side, MIN_TILE), MAX_TILE);
}

/** Return the margin of a model that takes one size: its radius, or less if that leaves too small a tile. */
export function fixedMargin(radius, length) {
  const full = radius ?? UNBOUNDED_OVERLAP;
  const affordable = Math.floor((length - 1) / 4);
  return { margin: Math.min(full, affordable), exact: radius !== null && radius <= affordable };
}

/** Triangle wave over 0..size-1 with the edge repeated: reflection that is defined for any distance. */
export function reflected(position, size) {
  const folded = ((position % (2 * size)) + 2 * size) % (2 * size);
  return folded < size ? folded : 2 * size - 1 - folded;
}

function cut(size, tile, margin, length) {
  const spans = [];
  for (let start = 0; start < size; start += tile) {
    const begin = Math.min(Math.max(start - margin, 0), size - length);
    spans.push({ start, stop: Math.min(start + tile, size), begin, length });
  }
  return spans;
}

export function roundedUp(size, multiple) {
  return Math.ceil(size / multiple) * multiple;
}
