"""A page of your own: ONNX files for onnxruntime-web, and a page that runs them and says on which engine.

Read in onnxruntime-web 1.30.0: `ort.all.min.mjs` holds the providers webgpu, webnn and wasm, and
`InferenceSession.create` fails where a browser does not have the one that is asked for. `srkd demo --build` writes the
whole app in place of this page: worker, threads, offline use, films, comparison of precisions.
"""

from __future__ import annotations

from string import Template

from compressor.base.files import atomic_path
from export.formats.conversion import CannotConvert
from export.hosts.job import STUDENTS, HostFiles, HostJob

ORT = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
"""The version that the demo is tested with (demo/app/package.json)."""
UNBOUNDED_MARGIN = 16
"""Pixels around a tile for a network that sees the whole picture: its seams are not exact."""

PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<p>
<input id="picture" type="file" accept="image/*">
<span id="said">Choose a picture: it is enlarged here and not uploaded.</span>
</p>
<canvas id="large" style="max-width: 100%"></canvas>
<script type="module">
import * as ort from "$ort/ort.all.min.mjs";

// MARGIN is what the network sees around a pixel, so tiles have no seams.
const SCALE = $scale, SIDE = 192, MARGIN = $margin;
const said = document.querySelector("#said");

/** Open the best engine that this browser has: [words, model, options of onnxruntime-web]. */
async function open() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const half = adapter?.features.has("shader-f16");
  const choices = [
    adapter && [`WebGPU$${half ? " in fp16" : ""}`, half ? "$fp16" : "$fp32", "webgpu"],
    navigator.ml && ["WebNN", "$fp32", { name: "webnn", deviceType: "gpu" }],
    ["WebAssembly on the processor", "$fp32", "wasm"],
  ];
  for (const [words, model, provider] of choices.filter(Boolean)) {
    try {
      const session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
      await session.run({ input: new ort.Tensor("float32", new Float32Array(3 * 16 * 16), [1, 3, 16, 16]) });
      return [words, session];
    } catch (error) {
      console.warn(`$${words}: $${error.message}`);
    }
  }
  throw new Error("no engine of this browser runs the network");
}

/** Enlarge the pixels of a rectangle: bytes of RGBA in, ImageData out. */
async function enlarge(session, { data, width, height }) {
  const planes = new Float32Array(3 * width * height);
  const count = width * height;
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) planes[c * count + i] = data[4 * i + c] / 255;
  const { output } = await session.run({ input: new ort.Tensor("float32", planes, [1, 3, height, width]) });
  const [wide, tall] = [width * SCALE, height * SCALE];
  const large = new ImageData(wide, tall);
  const sr = await output.getData();
  for (let i = 0; i < wide * tall; i++) {
    // The array clamps and rounds.
    for (let c = 0; c < 3; c++) large.data[4 * i + c] = sr[c * wide * tall + i] * 255;
    large.data[4 * i + 3] = 255;
  }
  return large;
}

const opened = open();
let last = 0;
let before = Promise.resolve();
document.querySelector("#picture").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  const mine = ++last;
  // One picture at a time: a later one waits for the tile that is computed, and no more of that picture are.
  before = before.then(() => show(file, () => mine !== last));
});

/** Enlarge a file onto the page, until `isLate()`. */
async function show(file, isLate) {
  try {
    said.textContent = "Opening the network…";
    const [engine, session] = await opened;
    const image = await createImageBitmap(file);
    if (isLate()) return;
    const source = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
    source.drawImage(image, 0, 0);
    const canvas = document.querySelector("#large");
    Object.assign(canvas, { width: image.width * SCALE, height: image.height * SCALE });
    const began = performance.now();
    for (let top = 0; top < image.height; top += SIDE) {
      for (let left = 0; left < image.width; left += SIDE) {
        const [x, y] = [Math.max(0, left - MARGIN), Math.max(0, top - MARGIN)];
        const width = Math.min(image.width, left + SIDE + MARGIN) - x;
        const height = Math.min(image.height, top + SIDE + MARGIN) - y;
        const tile = await enlarge(session, source.getImageData(x, y, width, height));
        if (isLate()) return;
        const inner = [left - x, top - y, Math.min(SIDE, image.width - left), Math.min(SIDE, image.height - top)];
        canvas.getContext("2d").putImageData(tile, x * SCALE, y * SCALE, ...inner.map((each) => each * SCALE));
      }
    }
    const ms = Math.round(performance.now() - began);
    said.textContent = `$${canvas.width} × $${canvas.height} in $${ms} ms, by $${engine}.`;
  } catch (error) {
    said.textContent = error.message;
  }
}
</script>
</html>
""")


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL.onnx`, `4x-MODEL.fp16.onnx` and `index.html`."""
    descriptor = job.network.descriptor
    job.require_any_size("ONNX", why="the page cuts pictures into tiles of any size")
    if descriptor.size_multiple > 1:
        raise CannotConvert(
            f"the page cuts pictures into tiles of any size, and {job.network.spec.arch} takes multiples of "
            f"{descriptor.size_multiple} pixels: {STUDENTS} run there"
        )
    if descriptor.channels != 3:
        raise CannotConvert(
            f"the page enlarges RGB, and this network has {descriptor.channels} channel: {STUDENTS} run there, and "
            "srkd demo runs this one"
        )
    files = job.export(["onnx", "fp16"], job.name)
    fp32, fp16 = (file.path.name for file in files if file.path is not None)
    radius = descriptor.receptive_radius
    margin = UNBOUNDED_MARGIN if radius is None else radius
    page = job.folder / "index.html"
    with atomic_path(page) as temporary:
        text = PAGE.substitute(
            title=job.model, ort=ORT.rstrip("/"), scale=job.scale, margin=margin, fp32=fp32, fp16=fp16
        )
        temporary.write_text(text, encoding="utf-8")
    return HostFiles(
        files,
        place="this folder on an https host, or on localhost",
        call="python -m http.server, then http://localhost:8000 in a browser",
        also=(page,),
        timed=files[0].path,
        notes=(
            "the page takes WebGPU, else WebNN, else WebAssembly, and says which; onnxruntime-web comes from a CDN",
            "the whole app, with threads, films, offline use and more: srkd demo MODEL --build DIR",
        ),
    )
