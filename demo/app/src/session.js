// What is on the table: one picture, two selections, and the results that were computed for it.

import { Cancelled } from "./engine.js";
import { reductionFor } from "./enlarge.js";
import { BICUBIC, bytesOf } from "./models.js";

/** Larger outputs than this are enlarged only when the user has said so: it takes minutes. */
const UNASKED_PIXELS = 8e6;
const KEPT_RESULTS = 4;

export class Session {
  picture = null;
  results = new Map();
  #opened = null;
  #abort = new AbortController();
  #look = null;

  /**
   * `events`: show(side, canvas), progress(tile or null, title), done(result, title), ask(picture, pixels),
   * opened(model, facts, choice).
   */
  constructor(engine, events) {
    this.engine = engine;
    this.events = events;
    this.wanted = null;
    this.sides = { left: null, right: null };
    this.busy = Promise.resolve();
  }

  /** Start the engine anew with other wishes; what was computed stays. */
  async setup(wanted) {
    if (this.wanted) this.engine.restart();
    this.wanted = wanted;
    this.#opened = null;
    const choice = await this.engine.ask("setup", { wanted });
    if (this.picture) {
      await this.engine.ask("picture", { blob: this.picture.blob });
      if (this.picture.region) await this.engine.ask("part", { region: this.picture.region });
    }
    return choice;
  }

  cancel() {
    this.#abort.abort();
    this.#abort = new AbortController();
  }

  /** A new picture from a file. */
  async take(blob, name) {
    this.cancel();
    await this.busy.catch(() => {});
    const { width, height } = await this.engine.ask("picture", { blob });
    this.#begin({ name, width, height, blob, region: null });
  }

  /** Only a part of it, from now on. */
  async cut(region) {
    this.cancel();
    await this.busy.catch(() => {});
    const { width, height } = await this.engine.ask("part", { region });
    const { left = 0, top = 0 } = this.picture.region ?? {};
    const whole = { ...region, left: left + region.left, top: top + region.top };
    this.#begin({ ...this.picture, width, height, region: whole });
  }

  #begin(picture) {
    this.picture = { ...picture, agreed: false };
    this.results.clear();
    this.#look = null;
  }

  /** The factor that results are made with: that of the network in view. */
  scale() {
    const network = [this.sides.right, this.sides.left].find((each) => each && each.key !== BICUBIC);
    return network?.scale ?? 4;
  }

  /** Bring both sides up to date: show what is there, compute what is not. One call at a time does the work. */
  refresh() {
    this.cancel();
    const { signal } = this.#abort;
    this.busy = this.busy.catch(() => {}).then(() => this.#refresh(signal));
    return this.busy;
  }

  async #refresh(signal) {
    if (!this.picture || signal.aborted) return;
    // The bicubic picture is there at once, and something to look at while the network works.
    const sides = ["left", "right"].sort((a, b) => (this.sides[b]?.key === BICUBIC) - (this.sides[a]?.key === BICUBIC));
    for (const side of sides) {
      const model = this.sides[side];
      if (model && model.key !== BICUBIC) await this.open(model);
    }
    await this.#firstLook();
    for (const side of sides) {
      if (signal.aborted) return;
      const result = await this.#resultFor(this.sides[side], side, signal);
      if (result) this.events.show(side, result.canvas);
      if (result?.stats) this.events.done(result, this.sides[side]);
    }
  }

  async #firstLook() {
    const scale = this.scale();
    if (this.#look?.scale !== scale) {
      const { image } = await this.engine.ask("run", { with: "look", scale });
      this.#look = { scale, image };
    }
    for (const side of ["left", "right"]) {
      if (!this.results.has(this.#key(this.sides[side]))) this.events.show(side, this.#canvas());
    }
  }

  #canvas() {
    const canvas = document.createElement("canvas");
    canvas.width = this.#look.image.width;
    canvas.height = this.#look.image.height;
    canvas.getContext("2d").drawImage(this.#look.image, 0, 0);
    return canvas;
  }

  #key(model) {
    return model.key === BICUBIC ? `${BICUBIC}-${this.scale()}` : model.key;
  }

  async #resultFor(model, side, signal) {
    const key = this.#key(model);
    if (this.results.has(key)) return this.results.get(key);
    const { picture } = this;
    const scale = this.scale();
    const pixels = picture.width * picture.height * scale ** 2;
    const plain = model.key === BICUBIC;
    if (plain && reductionFor(picture.width * scale, picture.height * scale) > 1) {
      return this.#keep(key, { canvas: this.#canvas(), model, picture });
    }
    if (!plain && pixels > UNASKED_PIXELS && !picture.agreed) {
      this.events.ask(picture, pixels);
      return null;
    }
    const canvas = this.#canvas();
    this.events.show(side, canvas);
    const stats = await this.#run(model, canvas, scale, signal);
    if (this.picture !== picture) throw new Cancelled();
    return this.#keep(key, { canvas, model, picture, scale, stats: plain ? null : stats, blob: stats.blob });
  }

  async #run(model, canvas, scale, signal) {
    const context = canvas.getContext("2d");
    const plain = model.key === BICUBIC;
    if (!plain) await this.open(model);
    const onTile = (tile) => {
      context.putImageData(new ImageData(tile.rgba, tile.width, tile.height), tile.x, tile.y);
      if (!plain) this.events.progress(tile, model);
    };
    try {
      const given = { with: plain ? BICUBIC : "network", scale, png: true };
      return await this.engine.ask("run", given, { onTile, signal });
    } finally {
      this.events.progress(null, model);
    }
  }

  #keep(key, result) {
    this.results.set(key, result);
    const oldest = this.results.keys().next().value;
    if (this.results.size > KEPT_RESULTS) this.results.delete(oldest);
    return result;
  }

  /** Load and open a model in the worker, unless it is the one that is open. */
  async open(model) {
    if (this.#opened === model.key) return;
    this.#opened = null;
    const bytes = await bytesOf(model);
    const given = { name: model.name ?? model.title, bytes, known: rowOf(model), wanted: this.wanted };
    const { facts, choice } = await this.engine.ask("open", given, { transfer: [bytes] });
    this.#opened = model.key;
    Object.assign(model, { scale: facts.scale, facts, precision: facts.precision });
    this.events.opened(model, facts, choice);
  }

  /** What can be saved of a side: its PNG, or its canvas where the browser cannot write one by strips. */
  async file(side) {
    const model = this.sides[side];
    const result = model && this.picture && this.results.get(this.#key(model));
    if (!result) return null;
    const blob = result.blob ?? (await new Promise((resolve) => result.canvas.toBlob(resolve, "image/png")));
    const stem = this.picture.name.replace(/\.[^.]*$/, "") || "picture";
    const kind = model.title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
    return new File([blob], `${stem}-${kind}-x${result.scale ?? this.scale()}.png`, { type: "image/png" });
  }
}

function rowOf({ receptive_radius, size_multiple, min_size }) {
  return { receptive_radius, size_multiple, min_size };
}
