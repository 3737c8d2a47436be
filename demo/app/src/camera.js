// The camera mode of the page: its frames, before and after, on the stage until another mode starts.

import { Cancelled } from "./engine.js";
import { cameraObstacle, film } from "./live.js";
import { BICUBIC } from "./models.js";
import { part, showWork, trouble } from "./panel.js";
import { number, size } from "./format.js";

export class Camera {
  #filming = null;
  #frames = { left: document.createElement("canvas"), right: document.createElement("canvas") };

  /** `refresh()` shows the picture again, `complain(error)` shows an error. */
  constructor({ engine, session, viewer, refresh, complain }) {
    Object.assign(this, { engine, session, viewer, refresh, complain });
  }

  /** Start or stop the camera, also while it has not answered yet. */
  async toggle() {
    if (this.#filming) {
      this.session.cancel();
      await this.#filming;
      return this.refresh().catch((error) => this.complain(error));
    }
    const obstacle = cameraObstacle();
    if (obstacle) return trouble(obstacle);
    let failed = null;
    this.#filming = this.session
      .alone("Waiting for the camera…", (signal) => this.#film(signal))
      .catch((error) => (failed = error));
    await this.#filming;
    this.#filming = null;
    if (!failed || failed instanceof Cancelled) return undefined;
    this.complain(failed);
    return this.refresh().catch(() => {});
  }

  async #film(signal) {
    part("live").lastElementChild.textContent = "Stop";
    part("ask").hidden = true;
    let shape = "";
    const onFrame = (frame) => {
      const found = size(frame.from.width, frame.from.height);
      if (shape !== found) this.#begin(frame);
      shape = found;
      this.#paint(frame);
    };
    try {
      await film(this.engine, { signal, choose: () => this.#choose(signal), onFrame });
    } finally {
      this.#leave();
    }
  }

  /** Return the current choice of the right side. */
  async #choose(signal) {
    const model = this.session.sides.right;
    const width = Number(part("live-width").value);
    if (model.key === BICUBIC) return { width, with: BICUBIC, scale: this.session.scale("right"), facts: {} };
    await this.session.open(model, signal);
    return { width, with: "network", facts: model.facts };
  }

  #begin({ width, height, from }) {
    document.body.dataset.mode = "live";
    for (const id of ["save", "share"]) part(id).disabled = true;
    part("shot").textContent = `Camera ${size(from.width, from.height)}`;
    this.viewer.reset(width, height);
  }

  #paint({ rgba, before, width, height, from, fps }) {
    showWork(null);
    put(this.#frames.left, before, from.width, from.height);
    put(this.#frames.right, rgba, width, height);
    for (const side of ["left", "right"]) this.viewer.show(side, this.#frames[side]);
    part("frames").hidden = false;
    part("frames").textContent = `${number(fps)} pictures/s`;
  }

  #leave() {
    part("frames").hidden = true;
    part("live").lastElementChild.textContent = "Live";
    if (document.body.dataset.mode !== "live") return;
    const { picture } = this.session;
    document.body.dataset.mode = picture ? "picture" : "empty";
    if (!picture) return;
    this.viewer.reset(picture.width, picture.height);
    this.session.present();
  }
}

function put(canvas, rgba, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}
