// The camera, live: one picture in flight at a time, so that the frames a second are the network's own.

import { median } from "./enlarge.js";

export class Live {
  #stream = null;
  #video = document.createElement("video");
  #running = false;

  constructor(engine) {
    this.engine = engine;
    this.#video.muted = true;
    this.#video.playsInline = true;
  }

  get running() {
    return this.#running;
  }

  /** Why this page cannot have the camera as a stream, or null. */
  static obstacle() {
    if (!window.isSecureContext) return "Live camera needs https or localhost. Taking a photo works here.";
    if (!navigator.mediaDevices?.getUserMedia) return "This browser gives pages no camera stream.";
    return null;
  }

  /** Until `stop`: each frame is cut to `width` x height and given to `onFrame({rgba, width, height, before, ms, fps})`. */
  async start({ width, onFrame }) {
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#running = true;
    const times = [];
    let last = performance.now();
    try {
      while (this.#running) {
        const image = await this.#grab(width);
        const frame = await this.engine.ask("frame", { image }, { transfer: [image] });
        if (!this.#running) break;
        const now = performance.now();
        times.push(now - last);
        last = now;
        if (times.length > 15) times.shift();
        onFrame({ ...frame, fps: 1000 / median(times) });
        await new Promise((resolve) => requestAnimationFrame(resolve));
      }
    } finally {
      this.stop();
    }
  }

  stop() {
    this.#running = false;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** The frame drawn at the network's input size, in the camera's proportions. */
  #grab(width) {
    const { videoWidth, videoHeight } = this.#video;
    const height = Math.max(1, Math.round((width * videoHeight) / videoWidth));
    return createImageBitmap(this.#video, { resizeWidth: width, resizeHeight: height, resizeQuality: "medium" });
  }
}
