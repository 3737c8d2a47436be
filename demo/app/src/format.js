// Formats numbers for people.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export function number(value) {
  return (value >= 100 ? plain : value >= 10 ? one : two).format(value);
}

export function megabytes(bytes) {
  return `${number(bytes / 1e6)} MB`;
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
