// Converts between 8-bit pixels of a canvas and planes of floats for networks, RGB or luminance, 32 or 16 bit.

/** Convert RGBA bytes to three planes of floats in [0,1]. */
export function planesFromRgba(rgba, count) {
  const planes = new Float32Array(3 * count);
  for (let i = 0, p = 0; i < count; i++, p += 4) {
    planes[i] = rgba[p] / 255;
    planes[count + i] = rgba[p + 1] / 255;
    planes[2 * count + i] = rgba[p + 2] / 255;
  }
  return planes;
}

/**
 * Return a region of three planes as RGBA bytes, half rounded up. Values that are not numbers are refused: a picture
 * with holes would look like a bad network, although the runtime is broken.
 */
export function rgbaFromPlanes(planes, width, height, region) {
  const { left, top } = region;
  const plane = width * height;
  const rgba = new Uint8ClampedArray(region.width * region.height * 4);
  let p = 0;
  for (let y = top; y < top + region.height; y++) {
    let i = y * width + left;
    for (let x = 0; x < region.width; x++, i++, p += 4) {
      const red = planes[i];
      const green = planes[plane + i];
      const blue = planes[2 * plane + i];
      if (!Number.isFinite(red + green + blue)) throw new Error("the network gave values that are not numbers");
      rgba[p] = Math.floor(red * 255 + 0.5);
      rgba[p + 1] = Math.floor(green * 255 + 0.5);
      rgba[p + 2] = Math.floor(blue * 255 + 0.5);
      rgba[p + 3] = 255;
    }
  }
  return rgba;
}

const TO_YCBCR = [
  [65.481, 128.553, 24.966, 16],
  [-37.797, -74.203, 112.0, 128],
  [112.0, -93.786, -18.214, 128],
];

/** BT.601 in studio range over 255, as one-channel networks are trained. */
export function ycbcrFromRgb(planes, count) {
  const mixed = new Float32Array(3 * count);
  for (let c = 0; c < 3; c++) {
    const [r, g, b, offset] = TO_YCBCR[c].map((weight) => weight / 255);
    for (let i = 0; i < count; i++) {
      mixed[c * count + i] = r * planes[i] + g * planes[count + i] + b * planes[2 * count + i] + offset;
    }
  }
  return mixed;
}

/** The exact inverse of `ycbcrFromRgb`, from three separate planes. */
export function rgbFromYcbcr(y, cb, cr) {
  const count = y.length;
  const planes = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) {
    const luminance = (y[i] * 255 - 16) / 219;
    const blue = (cb[i] * 255 - 128) / 112;
    const red = (cr[i] * 255 - 128) / 112;
    planes[i] = luminance + 0.701 * red;
    planes[count + i] = luminance - (0.886 * 0.114 / 0.587) * blue - (0.701 * 0.299 / 0.587) * red;
    planes[2 * count + i] = luminance + 0.886 * blue;
  }
  return planes;
}

const asFloat = new Float32Array(1);
const asBits = new Uint32Array(asFloat.buffer);

/** Convert float32 to the bits of float16, ties to even: not every browser has Float16Array. */
export function halvesFromFloats(floats) {
  const halves = new Uint16Array(floats.length);
  for (let i = 0; i < floats.length; i++) {
    asFloat[0] = floats[i];
    const bits = asBits[0];
    const sign = (bits >>> 16) & 0x8000;
    const magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) halves[i] = sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
    else if (magnitude < 0x38800000) halves[i] = sign | roundedEven(Math.abs(floats[i]) * 2 ** 24);
    else halves[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  return halves;
}

/** Convert the bits of float16 to float32. */
export function floatsFromHalves(halves) {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const exponent = (halves[i] >>> 10) & 31;
    const fraction = halves[i] & 1023;
    const sign = halves[i] & 0x8000 ? -1 : 1;
    if (exponent === 31) floats[i] = fraction ? NaN : sign * Infinity;
    else floats[i] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  }
  return floats;
}

function roundedEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}
