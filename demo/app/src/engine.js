// The page's side of the worker: every request is a promise, tiles come by callback, a run can be stopped.

export class Cancelled extends Error {}

export class Engine {
  #waiting = new Map();
  #next = 1;

  constructor() {
    this.restart();
  }

  /** A fresh worker: an engine's threads are fixed once it has started. What was asked of the old one is cancelled. */
  restart() {
    this.worker?.terminate();
    for (const request of this.#waiting.values()) request.reject(new Cancelled());
    this.#waiting.clear();
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "srkd" });
    this.worker.onmessage = ({ data }) => this.#hear(data);
    this.worker.onerror = (event) => this.#fail(event.message || "The worker could not be started.");
  }

  /** Ask the worker for something. `onTile` is told of each tile; `signal` stops the run between two tiles. */
  ask(action, given = {}, { transfer = [], onTile, signal } = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(new Cancelled());
      const stop = () => this.worker.postMessage({ action: "stop", run: id });
      signal?.addEventListener("abort", stop, { once: true });
      const settled = () => signal?.removeEventListener("abort", stop);
      this.#waiting.set(id, { resolve, reject, onTile, settled });
      this.worker.postMessage({ id, action, ...given }, transfer);
    });
  }

  #hear({ id, value, tile, error, cancelled }) {
    const request = this.#waiting.get(id);
    if (!request) return;
    if (tile) return request.onTile?.(tile);
    this.#waiting.delete(id);
    request.settled();
    if (error) request.reject(cancelled ? new Cancelled() : new Error(error));
    else request.resolve(value);
  }

  #fail(message) {
    for (const request of this.#waiting.values()) request.reject(new Error(message));
    this.#waiting.clear();
  }
}
