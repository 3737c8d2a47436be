// The current state: one picture, two selections, and the results computed for it.

import { Cancelled, raced } from "./engine.js";
import { reductionFor } from "./enlarge.js";
import { BICUBIC, bytesOf } from "./models.js";

/** Larger outputs than this need the user's confirmation, because they take minutes. */
const UNASKED_PIXELS = 8e6;

/** Results that are not shown are kept while all together have at most this many pixels on the page. */
const KEPT_PIXELS = 16e6;

const SIDES = ["right", "left"];

export class Session {
  picture = null;
  results = new Map();
  sides = { left: null, right: null };
  options = null;
  /** The scale of bicubic pictures if no network is shown. */
  usualScale = 4;
  #busy = Promise.resolve();
  #pending = 0;
  #turn = new AbortController();
  #taking = new AbortController();
  #opened = null;
  #opening = null;
  #canvases = {};

  /**
   * `events`: show(side, canvas), work(words or null), begun(total, model), tile(tile, model), done(side, result),
   * ask(picture, pixels), engine(choice).
   */
  constructor(engine, events) {
    this.engine = engine;
    this.events = events;
  }

  /** One task at a time uses the engine: cancel the running one, then run `work(signal)`. */
  alone(words, work) {
    this.cancel();
    const { signal } = this.#turn;
    this.#pending++;
    if (words) this.events.work(words);
    const done = this.#busy.then(() => work(signal));
    this.#busy = done.catch(() => {}).then(() => --this.#pending || this.events.work(null));
    return done;
  }

  /** Cancel computing. Loading and decoding continue, because their results are needed next. */
  cancel() {
    this.#turn.abort();
    this.#turn = new AbortController();
  }

  /** Cancel loading and decoding too, for the user. */
  stop() {
    this.cancel();
    this.#taking.abort();
    this.#opening?.controller.abort();
  }

  /** Start the engine with other options. Results are dropped: their figures belong to another engine. */
  setup(options) {
    this.results.clear();
    return this.alone("Starting the engine…", async () => {
      this.#opening?.controller.abort();
      if (this.options) this.engine.restart();
      this.options = options;
      this.#opened = null;
      const choice = await this.engine.ask("setup", { options });
      if (this.picture) {
        await this.engine.ask("picture", { blob: this.picture.blob });
        if (this.picture.region) await this.engine.ask("part", { region: this.picture.region });
        this.#begin(this.picture);
      }
      return choice;
    });
  }

  /** Within a task: go on with another engine in the same worker, and without a network. */
  async use(options) {
    this.#opening?.controller.abort();
    this.#opened = null;
    this.options = options;
    const choice = await this.engine.ask("setup", { options });
    this.events.engine(choice);
  }

  /** Open a picture from a file. The last request wins. */
  take(blob, name) {
    this.#taking.abort();
    const { signal } = (this.#taking = new AbortController());
    return this.alone(`Opening ${name}…`, async () => {
      const { width, height } = await this.engine.ask("picture", { blob }, { signal, patient: true });
      this.#begin({ name, width, height, blob, region: null });
    });
  }

  /** Continue with a part of the picture that is shown now only. */
  cut(region) {
    const { picture } = this;
    return this.alone("Cutting…", async () => {
      if (this.picture !== picture) throw new Cancelled();
      const { width, height } = await this.engine.ask("part", { region });
      const { left = 0, top = 0 } = this.picture.region ?? {};
      const whole = { ...region, left: left + region.left, top: top + region.top };
      this.#begin({ ...this.picture, width, height, region: whole });
    });
  }

  #begin(picture) {
    this.picture = { ...picture, agreed: false };
    this.results.clear();
    this.#canvases = {};
  }

  /** The side whose network has its figures shown: the right one, else the left one, else null. */
  subject() {
    return SIDES.find((side) => this.sides[side] && this.sides[side].key !== BICUBIC) ?? null;
  }

  /** Return the factor of a side's result: its network's; bicubic has that of the network beside it. */
  scale(side) {
    const network = [this.sides[side], this.sides.right, this.sides.left].find((each) => each && each.key !== BICUBIC);
    return network?.scale ?? this.usualScale;
  }

  #size(side) {
    const scale = this.scale(side);
    return [this.picture.width * scale, this.picture.height * scale];
  }

  /** Return the key of a result. On the left the browser draws a large bicubic picture itself, reduced, at once. */
  #key(side) {
    const { key } = this.sides[side];
    if (key !== BICUBIC) return key;
    const drawn = side === "left" && reductionFor(...this.#size(side)) > 1;
    return `${BICUBIC}-${this.scale(side)}${drawn ? "-drawn" : ""}`;
  }

  /** Return the result of a side, or null. */
  resultOf(side) {
    return (this.picture && this.sides[side] && this.results.get(this.#key(side))) ?? null;
  }

  /** Update both sides: show available results, compute the others. */
  refresh() {
    const { title } = this.sides[this.subject() ?? "right"];
    return this.alone(this.picture ? `Preparing ${title}…` : null, (signal) => this.#refresh(signal));
  }

  async #refresh(signal) {
    if (!this.picture || signal.aborted) return;
    for (const model of SIDES.map((side) => this.sides[side])) {
      // A list may omit the scale of a model: the model itself has it.
      if (model.key !== BICUBIC && !model.scale) await this.open(model, signal);
    }
    await this.#firstLook(signal);
    // The cheapest comes first: bicubic, then the network that is already open.
    const cost = (side) => (this.sides[side].key === BICUBIC ? 0 : this.sides[side].key === this.#opened ? 1 : 2);
    for (const side of [...SIDES].sort((a, b) => cost(a) - cost(b))) {
      const result = await this.#resultFor(side, signal);
      if (!result) continue;
      this.#put(side, result.canvas);
      if (result.stats) this.events.done(side, result);
    }
  }

  /** Show the picture enlarged by the browser on the sides that have no result yet. */
  async #firstLook(signal) {
    const bare = SIDES.filter((side) => !this.results.has(this.#key(side)));
    for (const scale of new Set(bare.map((side) => this.scale(side)))) {
      const { image } = await this.engine.ask("run", { with: "look", scale }, { signal });
      for (const side of bare) if (this.scale(side) === scale) this.#put(side, canvasOf(image));
      image.close();
    }
  }

  /** A canvas can be in one place only: the other side gets a copy. */
  #put(side, canvas) {
    const other = side === "left" ? "right" : "left";
    this.#canvases[side] = canvas === this.#canvases[other] ? canvasOf(canvas) : canvas;
    this.events.show(side, this.#canvases[side]);
  }

  /** Show the earlier state again, after the camera. */
  present() {
    for (const side of SIDES) if (this.#canvases[side]) this.events.show(side, this.#canvases[side]);
  }

  async #resultFor(side, signal) {
    const key = this.#key(side);
    if (this.results.has(key)) return this.results.get(key);
    const { picture } = this;
    const canvas = this.#canvases[side];
    const model = this.sides[side];
    const scale = this.scale(side);
    if (key.endsWith("drawn")) return this.#keep(key, { canvas, model, picture, scale, stats: null, blob: null });
    const [width, height] = this.#size(side);
    if (width * height > UNASKED_PIXELS && !picture.agreed) {
      this.events.ask(picture, width * height);
      return null;
    }
    const stats = await this.#run(model, canvas, scale, signal);
    return this.#keep(key, { canvas, model, picture, scale, stats, blob: stats.blob });
  }

  async #run(model, canvas, scale, signal) {
    const plain = model.key === BICUBIC;
    if (!plain) await this.open(model, signal);
    const context = canvas.getContext("2d");
    const onTile = (tile) => {
      context.putImageData(new ImageData(tile.rgba, tile.width, tile.height), tile.x, tile.y);
      this.events.tile(tile, model);
    };
    const onBegun = ({ total }) => this.events.begun(total, model);
    return this.engine.ask("run", { with: plain ? BICUBIC : "network", scale, png: true }, { onBegun, onTile, signal });
  }

  #keep(key, result) {
    this.results.set(key, result);
    const inView = new Set(SIDES.map((side) => this.#key(side)));
    let pixels = 0;
    for (const { canvas } of this.results.values()) pixels += canvas.width * canvas.height;
    for (const [old, { canvas }] of this.results) {
      if (pixels <= KEPT_PIXELS || inView.has(old)) continue;
      this.results.delete(old);
      pixels -= canvas.width * canvas.height;
    }
    return result;
  }

  /** Open a model in the worker. A load in progress is shared; one of another model is cancelled. `quiet`: no word about it. */
  async open(model, signal, { quiet = false } = {}) {
    if (this.#opened === model.key) return undefined;
    if (this.#pending && !quiet) this.events.work(`Loading “${model.title}”…`);
    if (this.#opening?.key !== model.key) this.#load(model);
    return raced(this.#opening.promise, signal);
  }

  /** Forget what a model gave: its strength is another one now. */
  forget({ key }) {
    this.results.delete(key);
    if (this.#opened === key) this.#opened = null;
    if (this.#opening?.key !== key) return;
    this.#opening.controller.abort();
    this.#opening = null;
  }

  #load(model) {
    this.#opening?.controller.abort();
    const opening = { key: model.key, controller: new AbortController() };
    this.#opening = opening;
    opening.promise = this.#fetchAndOpen(model, opening.controller.signal).finally(() => {
      if (this.#opening === opening) this.#opening = null;
    });
    // The request may be cancelled by now.
    opening.promise.catch(() => {});
  }

  async #fetchAndOpen(model, signal) {
    const bytes = await bytesOf(model, signal).catch((error) => {
      throw signal.aborted ? new Cancelled() : error;
    });
    if (signal.aborted) throw new Cancelled();
    this.#opened = null;
    const request = { name: model.name ?? model.title, bytes, entry: rowOf(model), options: this.options };
    const { facts, choice } = await this.engine.ask("open", request, { transfer: [bytes], signal });
    this.#opened = model.key;
    Object.assign(model, { scale: facts.scale, facts, precision: facts.precision });
    this.events.engine(choice);
  }

  /** Return the file to save: the PNG; if the browser cannot write it by strips, the picture in the shown size. */
  async file(side) {
    const { canvas, blob, model, picture, scale } = this.resultOf(side);
    const shown = !blob && canvas.width < picture.width * scale;
    const png = blob ?? (await new Promise((resolve) => canvas.toBlob(resolve, "image/png")));
    if (!png) throw new Error("The browser could not write this picture as a file. Enlarge a part of it.");
    const stem = picture.name.replace(/\.[^.]*$/, "") || "picture";
    const kind = model.title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
    const size = shown ? `${canvas.width}x${canvas.height}` : `x${scale}`;
    return { file: new File([png], `${stem}-${kind}-${size}.png`, { type: "image/png" }), shown };
  }
}

function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas;
}

function rowOf({ receptive_radius, size_multiple, min_size }) {
  return { receptive_radius, size_multiple, min_size };
}
