// The picture being worked on, in the worker: decoded once, upright, read window by window.

import { planesFromRgba } from "./pixels.js";
import { reflected } from "./tiling.js";

/** Beyond this a phone's browser is likely to be ended by the system while decoding. */
export const MAX_PIXELS = 64e6;

export class UnusablePicture extends Error {}

export class Picture {
  constructor(bitmap) {
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.canvas = new OffscreenCanvas(1, 1);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  }

  /** From a file: turned as its EXIF says, in sRGB. */
  static async from(blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
    } catch {
      throw new UnusablePicture("This file is not a picture that the browser can read.");
    }
    if (bitmap.width * bitmap.height > MAX_PIXELS) {
      const size = `${bitmap.width} × ${bitmap.height}`;
      bitmap.close();
      throw new UnusablePicture(`This picture has ${size} pixels; the app takes up to ${MAX_PIXELS / 1e6} megapixels.`);
    }
    return new Picture(bitmap);
  }

  /** A part of it, as a picture of its own. */
  async part({ left, top, width, height }) {
    return new Picture(await createImageBitmap(this.bitmap, left, top, width, height));
  }

  /** Planes of floats of a window; what lies beyond the right and lower edge is reflected. */
  window(left, top, width, height) {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const there = { width: Math.min(width, this.width - left), height: Math.min(height, this.height - top) };
    // Pictures with transparency lie on white, as they do on a page.
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, width, height);
    const { bitmap, context } = this;
    context.drawImage(bitmap, left, top, there.width, there.height, 0, 0, there.width, there.height);
    const pixels = this.context.getImageData(0, 0, width, height).data;
    if (there.width < width || there.height < height) reflect(pixels, width, height, there);
    return planesFromRgba(pixels, width * height);
  }

  /** The whole picture drawn at another size by the browser: for a first look, and where the result is shown reduced. */
  drawn(width, height) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, 0, 0, width, height);
    return canvas.transferToImageBitmap();
  }

  close() {
    this.bitmap.close();
  }
}

function reflect(pixels, width, height, there) {
  for (let y = 0; y < height; y++) {
    const row = reflected(y, there.height);
    for (let x = 0; x < width; x++) {
      const from = (row * width + reflected(x, there.width)) * 4;
      const to = (y * width + x) * 4;
      for (let c = 0; c < 4; c++) pixels[to + c] = pixels[from + c];
    }
  }
}
