// The current picture in the worker: decoded once, upright, read window by window.

import { planesFromRgba } from "./pixels.js";
import { reflected } from "./tiling.js";

/** Above this the system is likely to end a phone's browser while it decodes. */
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

  /** Decode a file: rotated as its EXIF says, in sRGB. */
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

  /** Return a part of it as a picture. */
  async part({ left, top, width, height }) {
    return new Picture(await createImageBitmap(this.bitmap, left, top, width, height));
  }

  /** Return a window as planes of floats; beyond the right and lower edge the picture is reflected. */
  window(left, top, width, height) {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const there = { width: Math.min(width, this.width - left), height: Math.min(height, this.height - top) };
    // Transparent pictures are drawn on white, as on a page.
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, width, height);
    const { bitmap, context } = this;
    context.drawImage(bitmap, left, top, there.width, there.height, 0, 0, there.width, there.height);
    const pixels = this.context.getImageData(0, 0, width, height).data;
    if (there.width < width || there.height < height) reflect(pixels, width, height, there);
    return planesFromRgba(pixels, width * height);
  }

  /** Return the whole picture at another size, drawn by the browser: for a first view, and for reduced results. */
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
