// The page: the actions of its buttons.

import { Cancelled, Engine } from "./engine.js";
import { clearComparison, compared, familyOf, offerComparison, showComparison } from "./compare.js";
import { showCard, showStrength } from "./card.js";
import { download, wireFiles } from "./input_files.js";
import { cameraObstacle } from "./live.js";
import { LiveView } from "./live_view.js";
import { BICUBIC, ORDINARY, fetchList, fromFile, keepSize } from "./models.js";
import { keepEngine, keepOffline, offerInstall, offlineObstacle } from "./offline.js";
import * as panel from "./panel.js";
import { part, say, trouble } from "./panel.js";
import { Session } from "./session.js";
import { clearTimes, inFront, isEnough, loaded, measuredFile, nameEngine, ROUNDS, showPlan, showTime, showTimed, turnOf } from "./plan.js";
import { measured, networksOf } from "./speed.js";
import { inTurns } from "./turns.js";
import { Viewer } from "./viewer.js";
import { number, size } from "./format.js";

const models = [ORDINARY];
const samples = [];
const viewer = new Viewer({
  stage: part("stage"),
  left: part("sheet-left"),
  right: part("sheet-right"),
  divider: part("divider"),
  onChange: offerCrop,
});
const engine = new Engine();
const session = new Session(engine, {
  show: (side, canvas) => viewer.show(side, canvas),
  work: panel.showWork,
  begun: (total, { title }) => panel.showBegun(total, title),
  tile: (tile, { title }) => panel.showProgress(tile, title),
  done: finished,
  ask: askFirst,
  engine: showEngine,
});
session.sides = { left: models[0], right: models[0] };
const live = new LiveView({ engine, session, viewer, refresh, complain });

/** The last request: a picture that arrives late does not replace a later one. */
let asked = 0;
let owned = 0;
let adding = Promise.resolve();
let choice = null;
let workerRefused = null;
let kept = false;
/** The plan whose files the page times, or null; and their times once it did. */
let plan = null;
let planTimes = null;

/** Run `work` and show its error on the page. Resolves to the error that was shown, or null. */
async function attempt(work) {
  trouble(null);
  try {
    await work();
    return null;
  } catch (error) {
    // A cancelled task needs no message: its cause was shown, or another task starts at once.
    if (error instanceof Cancelled) return null;
    complain(error);
    return error;
  }
}

/** Go on with the picture that is shown, after a task that took its turn and failed; the error stays on the page. */
async function goOn() {
  if (document.body.dataset.mode !== "picture") return;
  await refresh().catch((error) => error instanceof Cancelled || complain(error));
}

function complain(error) {
  trouble(error.message);
  part("trouble").scrollIntoView({ block: "nearest" });
}

function showEngine(chosen) {
  choice = chosen;
  const reason = workerRefused ?? offlineObstacle();
  const remedy = reason
    ? "Here no service worker can add them."
    : "The app's service worker adds them: load the page once more.";
  panel.showEngine(choice, remedy);
  nameEngine(choice);
}

function finished(side, result) {
  if (side === "right") offerFiles();
  if (side !== session.subject()) return;
  showSubject();
  say(`Done. ${panel.resultWords(result).join(" ")}`);
}

/** Show the model and the figures of the same side, so that they belong together. */
function showSubject() {
  const side = session.subject();
  showCard(side && session.sides[side], models);
  panel.showMeasure(networksOf(session.sides).length > 1);
  panel.showFigures(side && session.resultOf(side));
  if (choice) offerComparison(side ? familyOf(session.sides[side], models) : [], choice.available);
}

function askFirst(picture, pixels) {
  const words = `${size(picture.width, picture.height)} pixels become ${number(pixels / 1e6)} megapixels. `;
  part("ask-words").textContent = `${words}All of it can take minutes. Zoom in for a quick look at a part.`;
  part("ask").hidden = false;
  say(`${words}${part("ask-part").textContent}, or all of it?`);
}

function stop() {
  const { value, max, position } = part("progress");
  session.stop();
  say("Cancelled.");
  if (live.isOn) return live.stop();
  if (document.body.dataset.mode !== "picture") return;
  const when = position < 0 ? "before the first part" : `after ${value} of ${max} parts`;
  part("ask-words").textContent = `Cancelled ${when}.`;
  part("ask").hidden = false;
}

/** Enable Save if there is a result, and Share if the browser can share such a file. */
function offerFiles() {
  const result = session.resultOf("right");
  const file = new File([result?.blob ?? ""], "picture.png", { type: "image/png" });
  part("save").disabled = !result;
  part("share").disabled = !result || !navigator.canShare?.({ files: [file] });
}

function offerCrop() {
  part("crop").hidden = !session?.picture || !viewer.zoomed;
}

async function show(blob, name, sample = null) {
  const mine = ++asked;
  part("ask").hidden = true;
  let taken = false;
  const failed = await attempt(async () => {
    await session.take(blob, name);
    taken = true;
    panel.showCredit(sample);
    if (mine !== asked) return;
    startView();
    if (sample?.focus) viewer.focus(sample.focus, session.picture.width);
    await refresh();
  });
  if (failed && !taken && mine === asked) await goOn();
}

function startView() {
  const { picture } = session;
  document.body.dataset.mode = "picture";
  viewer.reset(picture.width, picture.height);
  say(`${picture.name}, ${size(picture.width, picture.height)} pixels.`);
}

async function refresh() {
  part("ask").hidden = true;
  showSubject();
  offerFiles();
  await session.refresh();
}

async function showSample(sample) {
  const { url, name } = sample;
  const mine = ++asked;
  await attempt(async () => {
    const response = await fetch(url).catch(() => null);
    if (mine !== asked) throw new Cancelled();
    if (!response?.ok) throw new Error(`The sample ${name} could not be loaded (${response?.status ?? "no connection"}).`);
    const blob = await response.blob();
    if (mine === asked) await show(blob, name, sample);
  });
}

async function cutToView() {
  await attempt(async () => {
    await session.cut(viewer.visible(session.picture.width, session.picture.height));
    startView();
    await refresh();
  });
}

/** Open the user's models in their order; the last one is selected. */
function openModels(files) {
  adding = adding.then(() => addModels(files));
}

/** Open each model once, so that an unusable one is refused before it can be selected. */
async function addModels(files) {
  await attempt(async () => {
    const refused = [];
    for (const file of files) {
      const model = fromFile(file, `own-${++owned}`);
      try {
        await session.alone(`Loading “${model.title}”…`, () => session.open(model));
      } catch (error) {
        if (error instanceof Cancelled) throw error;
        refused.push(error.message);
        continue;
      }
      models.push(model);
      session.sides.right = model;
      panel.fillChoices(models, session.sides);
      say(`${model.title} is open.`);
    }
    await refresh();
    if (refused.length) throw new Error(refused.join(" "));
  });
}

async function changeEngine() {
  part("measured").textContent = "";
  clearComparison();
  if (plan) forgetTimes();
  await attempt(async () => {
    await startEngine({ engine: part("engine-wanted").value, threads: Number(part("threads-wanted").value) });
  });
}

async function startEngine(options) {
  const ready = session.setup(options);
  showSubject();
  offerFiles();
  showEngine(await ready);
  if (kept) keepEngine(choice.engine).then(tellKept);
  await refresh();
}

/** Return all models that are networks: without the ordinary enlargement. */
function networkModels() {
  return models.filter(({ key }) => key !== BICUBIC);
}

async function measure() {
  const output = part("measured");
  output.textContent = "";
  const failed = await attempt(async () => {
    const shown = networksOf(session.sides);
    const compared = shown.length ? shown : networkModels().slice(0, 1);
    if (!compared.length) throw new Error("There is no network to measure: open an .onnx file first.");
    const titles = compared.map(({ title }) => title).join(" and ");
    await session.alone(`Measuring ${titles}…`, async (signal) => {
      const once = async (model) => {
        await session.open(model, signal);
        return engine.ask("measure", {}, { signal });
      };
      output.textContent = await measured(compared, once);
    });
  });
  if (!failed) await attempt(refresh);
  else await goOn();
}

/** Measure the shown network in every precision and engine, and go on with the fastest that is exact enough. */
async function compare() {
  clearComparison();
  const failed = await attempt(async () => {
    const side = session.subject();
    const before = session.options;
    const use = (wanted) => session.use({ ...before, engine: wanted });
    const rows = await session.alone("Comparing…", async (signal) => {
      const at = viewer.middle();
      const sample = async (model) => {
        await session.open(model, signal);
        return engine.ask("sample", { at }, { signal });
      };
      const onTurn = ({ model }, round) => panel.showWork(`Comparing, round ${round + 1}: ${model.title}`);
      try {
        return await compared(familyOf(session.sides[side], models), choice.available, { use, sample, onTurn });
      } finally {
        await session.use(before);
      }
    });
    const best = showComparison(rows);
    if (!best) return goOn();
    session.sides[side] = best.model;
    panel.fillChoices(models, session.sides);
    part("engine-wanted").value = best.engine;
    say(part("compared-words").textContent);
    return startEngine({ ...before, engine: best.engine, measured: true });
  });
  if (failed) await goOn();
}

/** Time the files of the plan in turns, on the engine that computes. */
async function timePlan() {
  const networks = networkModels();
  forgetTimes();
  part("time-plan").disabled = true;
  await attempt(async () => {
    const before = session.options;
    const { engine: chosen } = choice;
    const timed = await session.alone("Loading…", async (signal) => {
      const onLoad = ({ name }, done) => panel.showProgress({ done, total: networks.length, ms: 0 }, `Loading ${name}`);
      const files = await loaded(networks, signal, onLoad);
      const rows = files.map((model) => ({ model, engine: chosen }));
      const use = (wanted) => session.use({ ...before, engine: wanted });
      const once = async ({ model }) => {
        await session.open(model, signal, { quiet: true });
        if (choice.engine !== chosen) throw new Error(choice.why[0]);
        return engine.ask("measure", turnOf(plan), { signal });
      };
      const began = performance.now();
      let done = 0;
      let last = null;
      const onTurn = (row, round, left) => {
        if (last) showTime(plan, rows, last);
        last = row;
        const total = done + 1 + left;
        panel.showBegun(total, "");
        panel.showProgress({ done, total, ms: done && (performance.now() - began) / done }, `Round ${round + 1}, ${row.model.name}`);
        done++;
      };
      try {
        await inTurns(rows, ROUNDS, { use, once, onTurn, enough: isEnough });
      } finally {
        await session.use(before);
      }
      for (const row of rows) showTime(plan, rows, row);
      return { rows, choice };
    });
    planTimes = timed;
    showTimed(timed.rows, timed.choice);
    say(part("plan-result").textContent);
  });
  part("time-plan").disabled = false;
  if (!planTimes) forgetTimes();
}

function stopTiming(why) {
  session.stop();
  complain(new Error(why));
}

function forgetTimes() {
  planTimes = null;
  clearTimes(networkModels());
}

async function savePlan() {
  await attempt(async () => download(await measuredFile(plan, planTimes.rows, planTimes.choice)));
}

async function save() {
  await attempt(async () => {
    const { file, shown } = await session.file("right");
    download(file);
    say(`Saved as ${file.name}.`);
    if (shown) trouble("This browser cannot write pictures this large: what was saved is the picture in the size that is shown.");
  });
}

async function share() {
  await attempt(async () => {
    const { file } = await session.file("right");
    await navigator.share({ files: [file], title: file.name }).catch((error) => {
      if (error.name !== "AbortError") throw new Error(`Sharing did not work: ${error.message}`);
    });
  });
}

async function choose(side, key) {
  session.sides[side] = models.find((model) => model.key === key);
  if (document.body.dataset.mode === "picture") await attempt(refresh);
  else showSubject();
}

/** Make the network of the card as strong as the slider says: between its two ends. */
async function changeStrength(strength) {
  const model = session.sides[session.subject()];
  model.strength = strength;
  session.forget(model);
  if (document.body.dataset.mode === "picture") await attempt(refresh);
}

function toggleLive() {
  asked++;
  trouble(null);
  return live.toggle();
}

function play(file, name) {
  asked++;
  trouble(null);
  return live.play(file, name);
}

function wire() {
  wireFiles({ show, play, openModels, isOpen: () => !plan });
  const clicks = { live: toggleLive, save, share, crop: cutToView, "ask-part": cutToView, measure, compare, cancel: stop, "save-plan": savePlan };
  for (const [id, work] of Object.entries(clicks)) part(id).addEventListener("click", work);
  part("time-plan").addEventListener("click", () => inFront(timePlan, stopTiming));
  part("ask-whole").addEventListener("click", () => {
    session.picture.agreed = true;
    attempt(refresh);
  });
  part("zoom-in").addEventListener("click", () => viewer.zoomBy(1.6));
  part("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.6));
  part("zoom-fit").addEventListener("click", () => viewer.fit());
  const strength = part("strength-wanted");
  strength.addEventListener("input", () => showStrength({ strength: Number(strength.value) }));
  strength.addEventListener("change", () => changeStrength(Number(strength.value)));
  for (const id of ["engine-wanted", "threads-wanted"]) part(id).addEventListener("change", changeEngine);
  for (const side of ["left", "right"]) part(side).addEventListener("change", ({ target }) => choose(side, target.value));
}

function tellKept(missing) {
  kept = true;
  const named = (url) => [...models, ...samples].find((row) => row.url === url);
  const names = missing.map((url) => named(url)?.title ?? named(url)?.name ?? url);
  const without = names.length ? `, without what could not be loaded: ${[...new Set(names)].join(", ")}` : "";
  part("offline").textContent = `Works offline from now on${without}.`;
}

function stayOffline() {
  part("offline").textContent = offlineObstacle() ?? "Saving for offline use…";
  const update = (words, label, apply) => {
    part("update").hidden = false;
    part("update").firstElementChild.textContent = words;
    part("update-now").textContent = label;
    part("update-now").addEventListener("click", apply, { once: true });
  };
  keepOffline({
    engine: choice?.engine,
    onReady: tellKept,
    onUpdate: (apply) => update("A new version is ready.", "Use it", apply),
    onReplaced: () => update("Another tab uses a new version. Reload this tab to use it too.", "Reload", () => location.reload()),
  }).catch((error) => {
    part("offline").textContent = `Not kept for offline use: ${error.message}`;
    workerRefused = error.message;
    if (choice) showEngine(choice);
  });
  offerInstall(part("install"));
}

async function start() {
  wire();
  const wishes = new URLSearchParams(location.search);
  part("engine-wanted").value = wishes.get("engine") ?? "auto";
  part("threads-wanted").value = wishes.get("threads") ?? "0";
  const obstacle = cameraObstacle();
  part("live").disabled = Boolean(obstacle);
  if (obstacle) part("live").title = obstacle;
  const listed = await fetchList().catch((error) => ({ models: [], samples: [], plan: null, error }));
  models.splice(1, 0, ...listed.models);
  samples.push(...listed.samples);
  const right = models.find(({ role }) => role === "student") ?? models[1] ?? models[0];
  session.sides = { left: models[0], right };
  session.usualScale = models.find(({ scale }) => scale)?.scale ?? 4;
  plan = listed.plan;
  if (plan) {
    panel.speakOf("plan");
    showPlan(plan, listed.models);
  } else if (keepSize(listed.models)) panel.speakOf("restoring");
  panel.fillChoices(models, session.sides);
  panel.showSamples(samples, showSample);
  await changeEngine();
  if (listed.error) complain(listed.error);
  document.body.dataset.ready = "yes";
  const warm = warmUp();
  // Files that are loaded by then need not be sent again for the cache. If the host sends no isolation headers, the
  // service worker comes first: the page is reloaded through it.
  if (window.crossOriginIsolated) await warm;
  stayOffline();
}

/** Open the network while the user still looks for a photo. A failure is shown when the network is needed. */
async function warmUp() {
  const model = session.sides.right;
  if (model.key === BICUBIC || session.picture) return;
  await session.open(model).then(showSubject, () => {});
}

start();
