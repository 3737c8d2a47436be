// Formats numbers for people.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export function number(value) {
  return (value >= 100 ? plain : value >= 10 ? one : two).format(value);
}

export function fileSize(bytes) {
  return bytes < 1e5 ? `${number(bytes / 1e3)} kB` : `${number(bytes / 1e6)} MB`;
}

export function megapixels(width, height) {
  return `${number((width * height) / 1e6)} MP`;
}

export function size(width, height) {
  return `${width} × ${height}`;
}

export function duration(seconds) {
  if (seconds < 90) return `${number(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${number(minutes / 60)} h`;
}

/** Return a difference in quality, with its sign. */
export function decibels(difference) {
  const rounded = Math.abs(difference).toFixed(2);
  return `${Number(rounded) === 0 ? "±" : difference < 0 ? "−" : "+"}${rounded} dB`;
}

const BITS = { fp32: "32-bit", fp16: "16-bit", bf16: "16-bit", int8: "8-bit" };

/** Return the length of a network's numbers in words; of an unknown precision, its name. */
export function bits(precision) {
  return BITS[precision] ?? precision;
}

const TIMES = { 2: "Twice", 3: "Three times", 4: "Four times", 8: "Eight times" };

/** Return how much larger a picture became, as the beginning of a sentence. */
export function enlargement(scale) {
  return scale === 1 ? "As wide and as high as before" : `${TIMES[scale] ?? `${scale} times`} as wide and as high`;
}

/** Return a count in words: 214,851 becomes 0.21 million. */
export function millions(count) {
  return count < 10_000 ? plain.format(count) : `${number(count / 1e6)} million`;
}
