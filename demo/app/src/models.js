// The models and samples of the site, and those of the user.

import { blended } from "./blend.js";
import { bits, decibels } from "./format.js";

export const BICUBIC = "bicubic";
export const ORDINARY = { key: BICUBIC, title: "Ordinary", scale: null };

const ROLES = { student: "Sharpened", teacher: "Large network", int8: "Sharpened" };
/** Networks that keep the size (×1) restore a picture: it is shown before and after. */
const RESTORING = { student: "After", teacher: "Large network", int8: "After" };

/** Return the server's list, or the stored one when offline. */
export async function fetchList() {
  const response = await fetch("api/models.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`The list of models could not be loaded (${response.status}).`);
  const { models: listed = [], samples = [], plan = null } = await response.json();
  const models = listed.filter(({ name }) => !listed.some(({ textured }) => textured === name));
  if (keepSize(models)) ORDINARY.title = "Before";
  return { models: models.map((model, i) => named(model, i, models, listed)), samples, plan };
}

/** Return a model of the list with its key, its title, and the file of its textured end if it has one. */
function named(model, i, models, listed) {
  const textured = model.textured ? listed.find(({ name }) => name === model.textured) : null;
  return { ...model, textured, key: `model-${i}`, title: titleOf(model, models) };
}

/** Whether all of these networks keep the size of a picture. */
export function keepSize(models) {
  return models.length > 0 && models.every(({ scale }) => scale === 1);
}

/** Return a row of the list for a file of the user. */
export function fromFile(file, key) {
  return { key, file, name: file.name, title: file.name.replace(/\.onnx$/i, ""), bytes: file.size };
}

/** Return its bytes; of a model with two ends those of its strength. */
export async function bytesOf(model, signal) {
  if (model.file) return model.file.arrayBuffer();
  if (!model.textured) return fetched(model, signal);
  const [faithful, textured] = await Promise.all([fetched(model, signal), fetched({ ...model.textured, title: model.title }, signal)]);
  return blended(faithful, textured, model.strength);
}

/** The browser checks the bytes against the hash in the list. */
async function fetched(model, signal) {
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

/** Return what a file in eight bits lost against the network that it was made from, in dB; null: it does not say. */
export function lossOf({ metadata, facts }) {
  const drop = parsed((facts?.metadata ?? metadata)?.["srkd.quant"])?.drop_db;
  return typeof drop === "number" ? decibels(-drop) : null;
}

/** Return what a key of a file holds as JSON; null where it is another tool's text. */
export function parsed(text) {
  try {
    return JSON.parse(text ?? "null");
  } catch {
    return null;
  }
}

/**
 * Return the plain word for a model's role; of several, the first has it alone, and the others say how they differ.
 * Networks in eight bits always say so.
 */
function titleOf(model, models) {
  const role = roleOf(model);
  const isInt8 = ({ precision }) => precision === "int8";
  const alike = models.filter((other) => roleOf(other) === role && isInt8(other) === isInt8(model));
  const marked = isInt8(model) ? `${role}, int8` : role;
  if (alike[0] === model) return marked;
  const unique = alike.filter(({ precision }) => precision === model.precision).length === 1;
  return unique ? `${role}, ${bits(model.precision)}` : `${marked}: ${model.name}`;
}

/** A file of another tool's keeps its name: the list knows no architecture of it, and whether it sharpens is not known. */
function roleOf({ role, name, architecture, scale }) {
  const words = scale === 1 ? RESTORING : ROLES;
  return architecture === null && role !== "teacher" ? name : (words[role] ?? name);
}

function integrity(sha256) {
  const bytes = sha256.match(/../g).map((pair) => String.fromCharCode(parseInt(pair, 16)));
  return `sha256-${btoa(bytes.join(""))}`;
}
