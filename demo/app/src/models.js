// The models and samples of the site, and those of the user.

import { bits } from "./format.js";

export const BICUBIC = "bicubic";
export const ORDINARY = { key: BICUBIC, title: "Ordinary", scale: null };

const ROLES = { student: "Sharpened", teacher: "Large network", int8: "Sharpened" };

/** Return the server's list, or the stored one when offline. */
export async function fetchList() {
  const response = await fetch("api/models.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`The list of models could not be loaded (${response.status}).`);
  const { models = [], samples = [] } = await response.json();
  return { models: models.map((model, i) => ({ ...model, key: `model-${i}`, title: titleOf(model, models) })), samples };
}

/** Return a row of the list for a file of the user. */
export function fromFile(file, key) {
  return { key, file, name: file.name, title: file.name.replace(/\.onnx$/i, ""), bytes: file.size };
}

/** Return its bytes. The browser checks those of the server against the hash in the list. */
export async function bytesOf(model, signal) {
  if (model.file) return model.file.arrayBuffer();
  const checked = model.sha256 ? { integrity: integrity(model.sha256) } : {};
  const response = await fetch(addressOf(model), { ...checked, signal }).catch(() => null);
  if (!response?.ok) {
    const reason = response ? `the server says ${response.status}` : "no connection, or it is not the file that was announced";
    throw new Error(`“${model.title}” could not be loaded: ${reason}.`);
  }
  return response.arrayBuffer();
}

/** The hash in the address distinguishes files of the same name. */
export function addressOf({ url, sha256 }) {
  return sha256 ? `${url}?v=${sha256.slice(0, 12)}` : url;
}

/** Return the plain word for a model's role; of several, the first has it alone, and the others say how they differ. */
function titleOf(model, models) {
  const role = roleOf(model);
  const alike = models.filter((other) => roleOf(other) === role);
  if (alike[0] === model) return role;
  const unique = alike.filter(({ precision }) => precision === model.precision).length === 1;
  return unique ? `${role}, ${bits(model.precision)}` : `${role}: ${model.name}`;
}

/** A file of another tool's keeps its name: the list knows no architecture of it, and whether it sharpens is not known. */
function roleOf({ role, name, architecture }) {
  return architecture === null && role !== "teacher" ? name : (ROLES[role] ?? name);
}

function integrity(sha256) {
  const bytes = sha256.match(/../g).map((pair) => String.fromCharCode(parseInt(pair, 16)));
  return `sha256-${btoa(bytes.join(""))}`;
}
