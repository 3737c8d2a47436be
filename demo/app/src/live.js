// The live camera: one picture at a time, so that the frames a second are those of the network.

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
 * Run until `signal`. Before each frame `choose()` returns { width, with, scale, facts }: the model and its sizes.
 * `onFrame({rgba, width, height, before, from, ms, fps})` shows it.
 */
export async function film(engine, { signal, choose, onFrame }) {
  const stream = await camera(signal);
  const video = document.createElement("video");
  try {
    Object.assign(video, { muted: true, playsInline: true, srcObject: stream });
    await raced(video.play(), signal);
    const times = [];
    let last = performance.now();
    while (!signal.aborted) {
      const { width, facts, ...how } = await choose();
      const image = await grab(video, frameSize(video, width, facts));
      const frame = await engine.ask("frame", { image, ...how }, { transfer: [image], signal });
      const now = performance.now();
      times.push(now - last);
      last = now;
      if (times.length > AVERAGED_FRAMES) times.shift();
      onFrame({ ...frame, fps: 1000 / median(times) });
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  } finally {
    stopped(stream);
    video.srcObject = null;
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
