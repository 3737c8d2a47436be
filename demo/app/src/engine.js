// The page's side of the worker: every request is a promise, tiles come by callback, a run can be stopped.

export class Cancelled extends Error {}

/** Await `promise`, or throw Cancelled as soon as `signal` aborts; the later result is ignored. */
export function raced(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = () => reject(new Cancelled());
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

export class Engine {
  #waiting = new Map();
  #next = 1;
  #failed = null;

  constructor() {
    this.restart();
  }

  /** Start a new worker: an engine's threads are fixed once it has started. Requests to the old one are cancelled. */
  restart() {
    this.worker?.terminate();
    this.#failed = null;
    for (const request of this.#waiting.values()) request.reject(new Cancelled());
    this.#waiting.clear();
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "srkd" });
    this.worker.onmessage = ({ data }) => this.#hear(data);
    this.worker.onerror = (event) => this.#fail(event.message || "it could not be started");
  }

  /**
   * Send a request to the worker. `onBegun` receives the number of tiles before the first, `onTile` each tile. `signal`
   * ends the waiting at once and the run between two tiles; a `patient` request waits for the worker's own answer,
   * because both sides have to agree on what it did.
   */
  ask(action, request = {}, { transfer = [], onBegun, onTile, signal, patient = false } = {}) {
    if (signal?.aborted) return Promise.reject(new Cancelled());
    if (this.#failed) return Promise.reject(new Error(this.#failed));
    const id = this.#next++;
    const stop = () => this.worker.postMessage({ action: "stop", run: id });
    const answered = new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onBegun, onTile });
      signal?.addEventListener("abort", stop, { once: true });
      this.worker.postMessage({ id, action, ...request }, transfer);
    }).finally(() => signal?.removeEventListener("abort", stop));
    if (patient || !signal) return answered;
    const forget = () => this.#waiting.delete(id);
    return raced(answered, signal).finally(forget);
  }

  #hear({ id, value, begun, tile, error, cancelled }) {
    const request = this.#waiting.get(id);
    // The request was cancelled: release a picture at once.
    if (!request) return value?.image?.close();
    if (begun) return request.onBegun?.(begun);
    if (tile) return request.onTile?.(tile);
    this.#waiting.delete(id);
    if (error) request.reject(cancelled ? new Cancelled() : new Error(error));
    else request.resolve(value);
  }

  #fail(message) {
    this.#failed = `The worker that computes has stopped (${message}). Load the page once more.`;
    for (const request of this.#waiting.values()) request.reject(new Error(this.#failed));
    this.#waiting.clear();
  }
}
