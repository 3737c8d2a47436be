// The page: what the buttons do.

import { Cancelled, Engine } from "./engine.js";
import { Live } from "./live.js";
import { BICUBIC, fetchList, fromFile } from "./models.js";
import { keepOffline, offerInstall, offlineObstacle } from "./offline.js";
import { fillChoices, part, say, showEngine, showFigures, showModel, showProgress, showSamples, trouble } from "./panel.js";
import { Session } from "./session.js";
import { Viewer } from "./viewer.js";
import { number, size } from "./words.js";

const models = [{ key: BICUBIC, title: "Bicubic", scale: null }];
const viewer = new Viewer({
  stage: part("stage"),
  left: part("sheet-left"),
  right: part("sheet-right"),
  divider: part("divider"),
  onChange: offerCrop,
});
const engine = new Engine();
const live = new Live(engine);
const session = new Session(engine, {
  show: (side, canvas) => viewer.show(side, canvas),
  progress: (tile, model) => showProgress(tile, model.title),
  done: finished,
  ask: askFirst,
  opened: (model, facts, choice) => {
    showModel(model, facts);
    showEngine(choice);
  },
});

/** Runs `work`; what goes wrong is said on the page. */
async function attempt(work) {
  trouble(null);
  try {
    return await work();
  } catch (error) {
    // Whoever cancels has said why already, or asks for something else at once.
    if (error instanceof Cancelled) return undefined;
    trouble(error.message);
    part("trouble").scrollIntoView({ block: "nearest" });
    return undefined;
  }
}

function finished(result, model) {
  if (model !== session.sides.right && session.sides.right.key !== BICUBIC) return;
  showFigures(result);
  const { width, height } = result.picture;
  say(`Done: ${model.title} made ${size(width * result.scale, height * result.scale)} pixels.`);
  offerFiles();
}

function askFirst(picture, pixels) {
  const words = `${size(picture.width, picture.height)} pixels become ${number(pixels / 1e6)} megapixels. `;
  part("ask-words").textContent = `${words}All of it can take minutes. Zoom in for a quick look at a part.`;
  part("ask").hidden = false;
  say(`${words}Enlarge what is in view, or all of it?`);
}

function stop() {
  const { value, max } = part("progress");
  session.cancel();
  part("ask-words").textContent = `Cancelled after ${value} of ${max} tiles.`;
  part("ask").hidden = false;
  say("Cancelled.");
}

async function offerFiles() {
  const file = await session.file("right").catch(() => null);
  part("save").disabled = !file;
  part("share").disabled = !file || !navigator.canShare?.({ files: [file] });
}

function offerCrop() {
  part("crop").hidden = !session?.picture || !viewer.zoomed;
}

async function show(blob, name) {
  stopLive();
  await attempt(async () => {
    await session.take(blob, name);
    startView();
    await refresh();
  });
}

function startView() {
  const { picture } = session;
  document.body.dataset.mode = "picture";
  viewer.reset(picture.width, picture.height);
  for (const id of ["save", "share"]) part(id).disabled = true;
  part("ask").hidden = true;
  say(`${picture.name}, ${size(picture.width, picture.height)} pixels.`);
}

async function refresh() {
  part("ask").hidden = true;
  await session.refresh();
  await offerFiles();
}

async function showSample({ url, name }) {
  await attempt(async () => {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`The sample ${name} could not be loaded (${response.status}).`);
    await show(await response.blob(), name);
  });
}

async function cutToView() {
  await attempt(async () => {
    await session.cut(viewer.visible(session.picture.width, session.picture.height));
    startView();
    await refresh();
  });
}

async function openModelFile(file) {
  const model = fromFile(file, `own-${models.length}`);
  await attempt(async () => {
    session.cancel();
    await session.busy.catch(() => {});
    await session.open(model);
    models.push(model);
    session.sides.right = model;
    fillChoices(models, session.sides);
    say(`${model.title} is open.`);
    await refresh();
  });
}

function takeFile(file) {
  if (!file) return;
  if (/\.onnx$/i.test(file.name)) openModelFile(file);
  else show(file, file.name || "pasted.png");
}

async function startLive() {
  if (live.running) return stopLive();
  const obstacle = Live.obstacle();
  if (obstacle) return trouble(obstacle);
  return attempt(async () => {
    session.cancel();
    await session.busy.catch(() => {});
    const model = [session.sides.right, ...models].find(({ key }) => key !== BICUBIC);
    if (!model) throw new Error("There is no network to run: open an .onnx file first.");
    await session.open(model);
    document.body.dataset.mode = "live";
    part("ask").hidden = true;
    part("frames").hidden = false;
    part("live").lastElementChild.textContent = "Stop";
    let size0 = "";
    try {
      await live.start({
        width: Number(part("live-width").value),
        onFrame: (frame) => {
          if (size0 !== `${frame.width}x${frame.height}`) viewer.reset(frame.width, frame.height);
          size0 = `${frame.width}x${frame.height}`;
          paintFrame(frame);
        },
      });
    } finally {
      leaveLive();
    }
  });
}

const frames = { left: document.createElement("canvas"), right: document.createElement("canvas") };

function paintFrame({ rgba, before, width, height, ms, fps }) {
  const scale = Math.round(Math.sqrt(rgba.length / before.length));
  put(frames.left, before, width / scale, height / scale);
  put(frames.right, rgba, width, height);
  for (const side of ["left", "right"]) viewer.show(side, frames[side]);
  part("frames").textContent = `${number(fps)} FPS · ${number(ms)} ms`;
}

function put(canvas, rgba, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

function stopLive() {
  if (live.running) live.stop();
}

function leaveLive() {
  part("frames").hidden = true;
  part("live").lastElementChild.textContent = "Live";
  if (document.body.dataset.mode !== "live") return;
  document.body.dataset.mode = session.picture ? "picture" : "empty";
  if (session.picture) {
    viewer.reset(session.picture.width, session.picture.height);
    attempt(refresh);
  }
}

async function changeEngine() {
  await attempt(async () => {
    session.cancel();
    await session.busy.catch(() => {});
    const wanted = { engine: part("engine-wanted").value, threads: Number(part("threads-wanted").value) };
    showEngine(await session.setup(wanted));
  });
}

async function measure() {
  await attempt(async () => {
    const model = [session.sides.right, ...models].find(({ key }) => key !== BICUBIC);
    if (!model) throw new Error("There is no network to measure: open an .onnx file first.");
    part("measured").textContent = "…";
    await session.busy.catch(() => {});
    await session.open(model);
    const { ms, width, height } = await engine.ask("measure");
    part("measured").textContent = `${model.title}: ${number(ms)} ms for ${size(width, height)}`;
  });
}

async function save() {
  const file = await session.file("right");
  if (!file) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`Saved as ${file.name}.`);
}

async function share() {
  const file = await session.file("right");
  await navigator.share({ files: [file], title: file.name }).catch((error) => {
    if (error.name !== "AbortError") trouble(`Sharing did not work: ${error.message}`);
  });
}

function wire() {
  for (const id of ["library", "shoot", "model-file"]) {
    part(id).addEventListener("change", ({ target }) => {
      takeFile(target.files[0]);
      target.value = "";
    });
  }
  const clicks = { live: startLive, save, share, crop: cutToView, "ask-part": cutToView, measure, cancel: stop };
  for (const [id, work] of Object.entries(clicks)) part(id).addEventListener("click", work);
  part("ask-whole").addEventListener("click", () => {
    session.picture.agreed = true;
    attempt(refresh);
  });
  part("zoom-in").addEventListener("click", () => viewer.zoomBy(1.6));
  part("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.6));
  part("zoom-fit").addEventListener("click", () => viewer.fit());
  for (const id of ["engine-wanted", "threads-wanted"]) part(id).addEventListener("change", changeEngine);
  for (const side of ["left", "right"]) {
    part(side).addEventListener("change", ({ target }) => {
      session.sides[side] = models.find(({ key }) => key === target.value);
      if (document.body.dataset.mode === "picture") attempt(refresh);
    });
  }
  addEventListener("paste", ({ clipboardData }) => takeFile(clipboardData?.files[0]));
  wireDrop();
}

function wireDrop() {
  const mark = (on) => document.body.classList.toggle("dragging", on);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || mark(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    takeFile(event.dataTransfer.files[0]);
  });
}

function stayOffline() {
  part("offline").textContent = offlineObstacle() ?? "Being kept for offline use…";
  keepOffline({
    onReady: () => (part("offline").textContent = "Works offline from now on."),
    onUpdate: (apply) => {
      part("update").hidden = false;
      part("update-now").addEventListener("click", apply, { once: true });
    },
  }).catch((error) => (part("offline").textContent = `Not kept for offline use: ${error.message}`));
  offerInstall(part("install"));
}

async function start() {
  wire();
  const asked = new URLSearchParams(location.search);
  part("engine-wanted").value = asked.get("engine") ?? "auto";
  part("threads-wanted").value = asked.get("threads") ?? "0";
  const obstacle = Live.obstacle();
  part("live").disabled = Boolean(obstacle);
  if (obstacle) part("live").title = obstacle;
  const listed = await attempt(fetchList);
  models.push(...(listed?.models ?? []));
  session.sides = { left: models[0], right: models.find(({ role }) => role === "student") ?? models[1] ?? models[0] };
  fillChoices(models, session.sides);
  showSamples(listed?.samples ?? [], showSample);
  await changeEngine();
  document.body.dataset.ready = "yes";
  const warm = warmUp();
  // What the network has loaded by then need not be sent again to be kept. Where the host sends no isolation headers
  // the service worker comes first: the page is loaded anew through it.
  if (window.crossOriginIsolated) await warm;
  stayOffline();
}

/** The network is opened while its user still looks for a photo. A failure is told when it is wanted. */
function warmUp() {
  const model = session.sides.right;
  if (model.key === BICUBIC || session.picture) return session.busy;
  session.busy = session.busy.then(() => session.open(model)).catch(() => {});
  return session.busy;
}

start();
