// The live camera and films: one picture at a time, so that the frames a second are those of the network.

import { raced } from "./engine.js";
import { median } from "./enlarge.js";
import { roundedUp } from "./tiling.js";

const AVERAGED_FRAMES = 15;

const TROUBLE = {
  NotAllowedError: "The camera was not allowed. The browser's settings for this page can change that.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is used by something else.",
};

/** Return why this page cannot have the camera's stream, or null. */
export function cameraObstacle() {
  if (!window.isSecureContext) return "Live camera needs https or localhost. Taking a photo works here.";
  if (!navigator.mediaDevices?.getUserMedia) return "This browser gives pages no camera stream.";
  return null;
}

/**
 * Run until `signal`. Before each frame `choose()` returns { width, with, scale, facts, key }: the model and its sizes.
 * Only the newest frame is taken: those that come meanwhile are dropped. A frame is shown again if `key` changes.
 * `onFrame({rgba, width, height, before, from, ms, fps})` shows it, `onPause(paused)` tells whether it stands.
 */
export async function film(engine, source, { signal, choose, onFrame, onPause }) {
  const times = [];
  let last = performance.now();
  let shown = null;
  while (!signal.aborted) {
    const { width, facts, key, ...how } = await choose();
    onPause(source.paused);
    if (source.isNew() || key !== shown) {
      await raced(source.take(), signal);
      const image = await grab(source.video, frameSize(source.video, width, facts));
      const frame = await engine.ask("frame", { image, ...how }, { transfer: [image], signal });
      shown = key;
      const now = performance.now();
      times.push(now - last);
      last = now;
      if (times.length > AVERAGED_FRAMES) times.shift();
      onFrame({ ...frame, fps: 1000 / median(times) });
    } else if (source.paused) last = performance.now();
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}

/** Open the camera: each of its frames is new. */
export async function cameraSource(signal) {
  const stream = await camera(signal);
  const video = silent({ srcObject: stream });
  const close = () => {
    stopped(stream);
    video.srcObject = null;
  };
  const source = { video, paused: false, isNew: () => true, take: async () => {}, close };
  return started(source, video.play(), signal);
}

/** Open a video file, which plays at its own speed. */
export async function filmSource(file, name, signal) {
  const video = silent({ src: URL.createObjectURL(file), preload: "auto" });
  const source = new PlayedFilm(video);
  return started(source, opened(video, name).then(() => source.play()), signal);
}

function silent(attributes) {
  return Object.assign(document.createElement("video"), { muted: true, playsInline: true, ...attributes });
}

async function started(source, ready, signal) {
  try {
    await raced(ready, signal);
    return source;
  } catch (error) {
    source.close();
    throw error;
  }
}

async function opened(video, name) {
  await new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error(`This browser cannot play ${name}.`)), { once: true });
  });
  if (!video.videoWidth) throw new Error(`${name} has no pictures.`);
}

/** A film that the browser plays, and tells of each frame that it shows. */
class PlayedFilm {
  #presented = 0;
  #taken = 0;

  constructor(video) {
    this.video = video;
    const count = () => {
      this.#presented++;
      video.requestVideoFrameCallback(count);
    };
    video.requestVideoFrameCallback(count);
  }

  get paused() {
    return this.video.paused || this.video.ended;
  }

  play() {
    return this.video.play();
  }

  toggle() {
    if (this.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  isNew() {
    return this.#presented !== this.#taken;
  }

  async take() {
    this.#taken = this.#presented;
  }

  close() {
    this.video.pause();
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.load();
  }
}

/** The permission may be answered after the user has left: the camera is then stopped. */
async function camera(signal) {
  const stream = navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  try {
    return await raced(stream, signal);
  } catch (error) {
    stream.then(stopped, () => {});
    throw TROUBLE[error.name] ? new Error(TROUBLE[error.name]) : error;
  }
}

function stopped(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Return the selected width in the camera's proportions, or the size that the network takes. */
function frameSize({ videoWidth, videoHeight }, width, { fixed, multiple = 1, least = 1 }) {
  if (fixed) return fixed;
  const allowed = (side) => roundedUp(Math.max(Math.round(side), least, 1), multiple);
  return [allowed(width), allowed((width * videoHeight) / videoWidth)];
}

/** Return the middle of the frame in the proportions of the given size, drawn at that size. */
function grab(video, [width, height]) {
  const { videoWidth, videoHeight } = video;
  const shrink = Math.min(videoWidth / width, videoHeight / height);
  const [across, down] = [Math.round(width * shrink), Math.round(height * shrink)];
  const [left, top] = [Math.floor((videoWidth - across) / 2), Math.floor((videoHeight - down) / 2)];
  const drawn = { resizeWidth: width, resizeHeight: height, resizeQuality: "medium" };
  return createImageBitmap(video, left, top, across, down, drawn);
}
