// The camera or a film on the page: its latest frame, before and after, on the stage until another mode starts.

import { Cancelled } from "./engine.js";
import { cameraObstacle, cameraSource, film, filmSource } from "./live.js";
import { BICUBIC } from "./models.js";
import { part, showWork, trouble } from "./panel.js";
import { number, size } from "./format.js";

/** A film begins at the largest width whose frames take no longer than this. */
const FRAME_MS = 150;
const FRAMES_TRIED = 4;

export class LiveView {
  #filming = null;
  #frames = { left: document.createElement("canvas"), right: document.createElement("canvas") };
  #source = null;

  /** `refresh()` shows the picture again, `complain(error)` shows an error. */
  constructor({ engine, session, viewer, refresh, complain }) {
    Object.assign(this, { engine, session, viewer, refresh, complain });
    part("pause").addEventListener("click", () => this.#source?.toggle());
  }

  /** Start the camera, or stop what runs, also while it has not answered yet. */
  async toggle() {
    if (this.#filming) return this.stop();
    const obstacle = cameraObstacle();
    if (obstacle) return trouble(obstacle);
    return this.#start("Waiting for the camera…", cameraSource, "Camera");
  }

  get isOn() {
    return Boolean(this.#filming);
  }

  /** Go back to the picture, which may be one that was opened meanwhile. */
  async stop() {
    this.session.cancel();
    await this.#filming;
    return this.refresh().catch((error) => this.complain(error));
  }

  /** Enlarge a film of the user while it plays, in place of what runs. */
  play(file, name) {
    return this.#start(`Opening ${name}…`, (signal) => filmSource(file, name, signal), name);
  }

  async #start(words, open, title) {
    let failed = null;
    const before = this.session.picture;
    const filming = this.session
      .alone(words, (signal) => this.#film(signal, open, title).finally(() => this.#leave(before)))
      .catch((error) => (failed = error));
    this.#filming = filming;
    await filming;
    if (this.#filming !== filming) return undefined;
    this.#filming = null;
    if (!failed || failed instanceof Cancelled) return undefined;
    this.complain(failed);
    return this.refresh().catch(() => {});
  }

  async #film(signal, open, title) {
    part("live").lastElementChild.textContent = "Stop";
    part("ask").hidden = true;
    let shape = "";
    const took = [];
    const onFrame = (frame) => {
      const found = size(frame.from.width, frame.from.height);
      if (shape !== found) this.#begin(frame, title);
      shape = found;
      this.#paint(frame);
      // The first frame is slower than the others, and any one may have waited for another program.
      took.push(frame.ms);
      if (this.#source.toggle && took.length === FRAMES_TRIED) widen(frame, Math.min(...took), this.#source.video);
    };
    try {
      this.#source = await open(signal);
      part("pause").hidden = !this.#source.toggle;
      await film(this.engine, this.#source, { signal, choose: () => this.#choose(signal), onFrame, onPause: showPause });
    } finally {
      this.#source?.close();
      this.#source = null;
    }
  }

  /** Return the current choice of the right side. */
  async #choose(signal) {
    const model = this.session.sides.right;
    const width = Number(part("live-width").value);
    const choice = { width, key: `${model.key} ${model.strength} ${width}` };
    if (model.key === BICUBIC) return { ...choice, with: BICUBIC, scale: this.session.scale("right"), facts: {} };
    await this.session.open(model, signal);
    return { ...choice, with: "network", facts: model.facts };
  }

  #begin({ width, height, from }, title) {
    document.body.dataset.mode = "live";
    for (const id of ["save", "share"]) part(id).disabled = true;
    part("shot").textContent = `${title} ${size(from.width, from.height)}`;
    this.viewer.reset(width, height);
  }

  #paint({ rgba, before, width, height, from, fps, ms }) {
    showWork(null);
    put(this.#frames.left, before, from.width, from.height);
    put(this.#frames.right, rgba, width, height);
    for (const side of ["left", "right"]) this.viewer.show(side, this.#frames[side]);
    part("frames").hidden = false;
    part("frames").textContent = `${number(fps)} pictures/s · ${number(ms)} ms`;
  }

  /** Show the picture in place of the film. One that was opened since `before` was there is not on the page yet. */
  #leave(before) {
    for (const id of ["frames", "pause"]) part(id).hidden = true;
    part("live").lastElementChild.textContent = "Live";
    const { picture } = this.session;
    if (document.body.dataset.mode !== "live" && picture === before) return;
    document.body.dataset.mode = picture ? "picture" : "empty";
    if (!picture) return;
    this.viewer.reset(picture.width, picture.height);
    this.session.present();
  }
}

function showPause(paused) {
  const words = paused ? "Play" : "Pause";
  if (part("pause").textContent !== words) part("pause").textContent = words;
}

/** Select the largest width of a film that this device enlarges fast enough, by the ms of a frame. */
function widen({ from }, ms, { videoWidth }) {
  const affordable = Math.min(from.width * Math.sqrt(FRAME_MS / ms), videoWidth);
  const widths = [...part("live-width").options].map(({ value }) => Number(value)).filter((each) => each <= affordable);
  const widest = Math.max(...widths);
  if (widest > Number(part("live-width").value)) part("live-width").value = widest;
}

function put(canvas, rgba, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}
