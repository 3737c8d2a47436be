// The card of a network: what it is in a sentence, four figures, and everything that its file says.

import { bits, fileSize, millions, number, size } from "./format.js";
import { keepSize, lossOf, parsed } from "./models.js";
import { element, part } from "./panel.js";

const DESCRIPTION_LETTERS = 300;

/** Show the network of the figures beside the other models of the page; null: both sides are enlarged without one. */
export function showCard(model, models) {
  part("model-name").textContent = model?.title ?? "";
  part("card-title").textContent = model ? (model.name ?? model.title) : "No network";
  const words = model ? sentences(model, describe(model)) : [ordinary(models)];
  part("card-words").textContent = words.join(" ");
  part("card-figures").replaceChildren(...(model ? figuresOf(model, models).map(figure) : []));
  part("card-figures").hidden = part("card-all").hidden = !model;
  part("strength").hidden = !model?.textured;
  if (model?.textured) showStrength(model);
  const rows = model ? rowsOf(model) : [];
  part("model-facts").replaceChildren(...rows.flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
}

/** Show how far a network lies between its faithful end and its textured one. */
export function showStrength({ strength }) {
  if (!part("strength-wanted").matches(":active")) part("strength-wanted").value = strength; // not out of a hand
  part("strength-is").textContent = `${Math.round(100 * strength)} %`;
}

/** Beside networks of scale 1 an ordinary picture is not enlarged at all. */
function ordinary(models) {
  if (keepSize(models.filter(({ scale }) => scale))) return "The picture as it is, without a network.";
  return "Ordinary enlarging (bicubic) computes pixels between pixels.";
}

/** Return the facts about a model: from its file once it was opened, before that from the list. */
function describe({ facts, bytes, precision, scale, fixed_size, receptive_radius, metadata, producer }) {
  const fixed = fixed_size ? [fixed_size.width, fixed_size.height] : null;
  return { bytes, precision, scale, fixed, radius: receptive_radius ?? undefined, metadata: metadata ?? {}, about: { producer }, ...facts };
}

/** What a student is for, by the goal of its run. */
const PURPOSES = {
  teacher: () => "It is for looking like its teacher: its images come near to the large network’s.",
  original: (scale) => (scale === 1 ? "It is for restoring photographs." : "It is for restoring photographs that became small."),
};

/** A file of srkd's has its spec; any other one is described by what it says of itself. */
function sentences({ role }, { metadata, about, scale }) {
  const spec = specOf(metadata);
  const recipe = metadata["srkd.recipe"];
  return [
    role === "teacher" && `The larger network that the ${scale === 1 ? "restored" : "sharpened"} picture can be compared with.`,
    spec && `A network of the kind ${kindOf(spec)}.`,
    role !== "teacher" && PURPOSES[metadata["srkd.goal"]]?.(scale),
    recipe && `Trained by srkd’s recipe ${recipe}.`,
    !spec && (about.producer ? `Not from srkd: written by ${about.producer}.` : "Not from srkd."),
    !spec && about.description?.slice(0, DESCRIPTION_LETTERS),
  ].filter(Boolean);
}

function kindOf({ arch, width, depth }) {
  const sizes = [depth && `${depth} blocks`, width && `${width} channels`].filter(Boolean).join(", ");
  return sizes ? `${arch.toUpperCase()} (${sizes})` : arch.toUpperCase();
}

function specOf(metadata) {
  const spec = parsed(metadata["srkd.spec"]);
  return typeof spec?.arch === "string" ? spec : null;
}

/** The score that the network is judged by, and what it was measured to. */
function scoreOf(metadata) {
  const scores = parsed(metadata["srkd.scores"]);
  const isNearTeacher = metadata["srkd.goal"] === "teacher";
  const score = isNearTeacher ? scores?.validation_psnr_y_teacher : scores?.validation_psnr_y;
  const to = isNearTeacher ? "to its teacher’s images" : "to the originals";
  return typeof score === "number" ? { score, to } : null;
}

function figuresOf(model, models) {
  const { bytes, precision, scale, weights, fixed, metadata } = describe(model);
  const large = models.find(({ role }) => role === "teacher");
  const compared = large && large !== model && model.role !== "teacher";
  return [
    ["File", fileSize(bytes), compared ? `${shareOf(bytes, large.bytes)} of the large network’s` : ""],
    [...(scale === 1 ? ["Keeps", "the size"] : ["Enlarges", scale ? `×${scale}` : "–"]), fixed ? `pictures of ${size(...fixed)}` : "pictures of any size"],
    ["Weights", weights ? millions(weights) : "–", precision ? `${bits(precision)} numbers` : ""],
    ...qualityOf(scoreOf(metadata), lossOf(model)),
  ];
}

/** The score is that of the network in float, whose weights a file in eight bits has. */
function qualityOf(scored, loss) {
  if (scored) {
    const below = loss ? `${scored.to}, in float; int8 changes it by ${loss}` : `${scored.to}, on its validation images`;
    return [["Quality", `${number(scored.score)} dB`, below]];
  }
  return loss ? [["Quality", loss, "against the same in float"]] : [];
}

function shareOf(bytes, whole) {
  const percent = Math.round((100 * bytes) / whole);
  return percent < 1 ? "less than 1%" : `${percent}%`;
}

function rowsOf(model) {
  const { bytes, precision, scale, fixed, radius, metadata, about } = describe(model);
  const sees = radius === null ? "the whole picture: parts overlap, seams may differ" : `${radius} pixel${radius === 1 ? "" : "s"} around: parts have no seams`;
  const rows = [
    ["file", model.name ?? model.title],
    ["bytes", number(bytes)],
    ["precision", precision],
    ["enlarges", scale && `×${scale}`],
    ["sees", radius === undefined ? null : sees],
    ["takes", fixed ? `only ${size(...fixed)}` : "any size"],
    ["written by", about.producer],
    ["graph", about.graph],
    ["opset", about.opset],
    ["input", about.input],
    ["output", about.output],
    ["description", about.description],
    ...Object.entries(metadata).map(([key, value]) => [key.replace(/^srkd\./, ""), value]),
  ];
  return rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
}

function figure([name, value, note]) {
  const box = document.createElement("div");
  const small = element("dd", note);
  small.className = "small";
  box.append(element("dt", name), element("dd", value), small);
  return box;
}
