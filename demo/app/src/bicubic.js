// MATLAB's bicubic (Keys, a = -0.5, mirrored border), whole factors: the reference every network is compared with.

/** The reach of a pixel of the result, in low-resolution pixels. */
export const BICUBIC_RADIUS = 2;

function cubic(distance) {
  const t = Math.abs(distance);
  if (t <= 1) return 1.5 * t ** 3 - 2.5 * t ** 2 + 1;
  if (t <= 2) return -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2;
  return 0;
}

/** Return four indices and weights for each position of the enlarged axis. */
function taps(size, scale) {
  const indices = new Int32Array(size * scale * 4);
  const weights = new Float32Array(size * scale * 4);
  for (let o = 0; o < size * scale; o++) {
    const centre = (o + 0.5) / scale - 0.5;
    const first = Math.floor(centre) - 1;
    for (let t = 0; t < 4; t++) {
      const folded = (((first + t) % (2 * size)) + 2 * size) % (2 * size);
      indices[o * 4 + t] = folded < size ? folded : 2 * size - 1 - folded;
      weights[o * 4 + t] = cubic(centre - first - t);
    }
  }
  return { indices, weights };
}

/** Enlarge `channels` planes of width x height by `scale`; neither rounded nor clamped. */
export function bicubic(planes, channels, width, height, scale) {
  const wide = width * scale;
  const tall = height * scale;
  const rows = taps(height, scale);
  const columns = taps(width, scale);
  const between = new Float32Array(width * tall);
  const enlarged = new Float32Array(channels * wide * tall);
  for (let c = 0; c < channels; c++) {
    const plane = planes.subarray(c * width * height, (c + 1) * width * height);
    for (let y = 0; y < tall; y++) {
      const [a, b, d, e] = rows.indices.subarray(y * 4, y * 4 + 4).map((row) => row * width);
      const [wa, wb, wd, we] = rows.weights.subarray(y * 4, y * 4 + 4);
      for (let x = 0; x < width; x++) {
        between[y * width + x] = wa * plane[a + x] + wb * plane[b + x] + wd * plane[d + x] + we * plane[e + x];
      }
    }
    let out = c * wide * tall;
    for (let y = 0; y < tall; y++) {
      const row = y * width;
      for (let x = 0, t = 0; x < wide; x++, t += 4, out++) {
        enlarged[out] =
          columns.weights[t] * between[row + columns.indices[t]] +
          columns.weights[t + 1] * between[row + columns.indices[t + 1]] +
          columns.weights[t + 2] * between[row + columns.indices[t + 2]] +
          columns.weights[t + 3] * between[row + columns.indices[t + 3]];
      }
    }
  }
  return enlarged;
}
