// What is on the table: one picture, two selections, and the results that were computed for it.

import { Cancelled, raced } from "./engine.js";
import { reductionFor } from "./enlarge.js";
import { BICUBIC, bytesOf } from "./models.js";

/** Larger outputs than this are enlarged only when the user has said so: it takes minutes. */
const UNASKED_PIXELS = 8e6;

/** Results that are not in view are kept while all together have no more pixels on the page than this. */
const KEPT_PIXELS = 16e6;

const SIDES = ["right", "left"];

export class Session {
  picture = null;
  results = new Map();
  sides = { left: null, right: null };
  options = null;
  /** Of bicubic pictures where no network is in view. */
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

  /** One piece of work at a time has the engine: what runs is cancelled, then comes `work(signal)`. */
  alone(words, work) {
    this.cancel();
    const { signal } = this.#turn;
    this.#pending++;
    if (words) this.events.work(words);
    const done = this.#busy.then(() => work(signal));
    this.#busy = done.catch(() => {}).then(() => --this.#pending || this.events.work(null));
    return done;
  }

  /** End what is computed. What is loaded or decoded goes on: it is needed next. */
  cancel() {
    this.#turn.abort();
    this.#turn = new AbortController();
  }

  /** By the user: end loading and decoding as well. */
  stop() {
    this.cancel();
    this.#taking.abort();
    this.#opening?.controller.abort();
  }

  /** Start the engine with other wishes. What was computed goes: its figures are those of another engine. */
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

  /** A new picture from a file. The last one that was asked for wins. */
  take(blob, name) {
    this.#taking.abort();
    const { signal } = (this.#taking = new AbortController());
    return this.alone(`Opening ${name}…`, async () => {
      const { width, height } = await this.engine.ask("picture", { blob }, { signal, patient: true });
      this.#begin({ name, width, height, blob, region: null });
    });
  }

  /** Only a part of it, from now on. */
  cut(region) {
    return this.alone("Cutting…", async () => {
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

  /** The side whose network the figures tell of: the right one, else the left one, else null. */
  subject() {
    return SIDES.find((side) => this.sides[side] && this.sides[side].key !== BICUBIC) ?? null;
  }

  /** The factor of a side's result: its network's own; bicubic has that of the network beside it. */
  scale(side) {
    const network = [this.sides[side], this.sides.right, this.sides.left].find((each) => each && each.key !== BICUBIC);
    return network?.scale ?? this.usualScale;
  }

  #size(side) {
    const scale = this.scale(side);
    return [this.picture.width * scale, this.picture.height * scale];
  }

  /** Of the results, by what made them. On the left a large bicubic picture is the browser's own, drawn small at once. */
  #key(side) {
    const { key } = this.sides[side];
    if (key !== BICUBIC) return key;
    const drawn = side === "left" && reductionFor(...this.#size(side)) > 1;
    return `${BICUBIC}-${this.scale(side)}${drawn ? "-drawn" : ""}`;
  }

  /** What was computed of a side, or null. */
  resultOf(side) {
    return (this.picture && this.sides[side] && this.results.get(this.#key(side))) ?? null;
  }

  /** Bring both sides up to date: show what is there, compute what is not. */
  refresh() {
    const { title } = this.sides[this.subject() ?? "right"];
    return this.alone(this.picture ? `Preparing ${title}…` : null, (signal) => this.#refresh(signal));
  }

  async #refresh(signal) {
    if (!this.picture || signal.aborted) return;
    for (const model of SIDES.map((side) => this.sides[side])) {
      // A list may leave out how much a model enlarges: the model itself knows.
      if (model.key !== BICUBIC && !model.scale) await this.open(model, signal);
    }
    await this.#firstLook(signal);
    // What costs least comes first: bicubic, then the network that is open already.
    const cost = (side) => (this.sides[side].key === BICUBIC ? 0 : this.sides[side].key === this.#opened ? 1 : 2);
    for (const side of [...SIDES].sort((a, b) => cost(a) - cost(b))) {
      const result = await this.#resultFor(side, signal);
      if (!result) continue;
      this.#put(side, result.canvas);
      if (result.stats) this.events.done(side, result);
    }
  }

  /** The picture enlarged by the browser, on the sides that have nothing better yet. */
  async #firstLook(signal) {
    const bare = SIDES.filter((side) => !this.results.has(this.#key(side)));
    for (const scale of new Set(bare.map((side) => this.scale(side)))) {
      const { image } = await this.engine.ask("run", { with: "look", scale }, { signal });
      for (const side of bare) if (this.scale(side) === scale) this.#put(side, canvasOf(image));
      image.close();
    }
  }

  /** A canvas hangs in one place: the other side gets a copy. */
  #put(side, canvas) {
    const other = side === "left" ? "right" : "left";
    this.#canvases[side] = canvas === this.#canvases[other] ? canvasOf(canvas) : canvas;
    this.events.show(side, this.#canvases[side]);
  }

  /** Show again what was there, after the camera. */
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

  /** Have a model open in the worker. A loading that is under way is shared, one of another model is given up. */
  async open(model, signal) {
    if (this.#opened === model.key) return undefined;
    if (this.#pending) this.events.work(`Loading ${model.title}…`);
    if (this.#opening?.key !== model.key) this.#load(model);
    return raced(this.#opening.promise, signal);
  }

  #load(model) {
    this.#opening?.controller.abort();
    const opening = { key: model.key, controller: new AbortController() };
    this.#opening = opening;
    opening.promise = this.#fetchAndOpen(model, opening.controller.signal).finally(() => {
      if (this.#opening === opening) this.#opening = null;
    });
    // It may be that nobody waits any more.
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

  /** What can be saved of a side: its PNG; where the browser cannot write one by strips, what is shown, in its size. */
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
