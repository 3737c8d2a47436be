// Chooses one of onnxruntime-web's engines, with the reasons why not a better one. Runs in the worker.

const MAX_THREADS = 4;

/** The remedy depends on the service worker, so the page adds it. */
export const NOT_ISOLATED = "One thread: the host does not send the headers that isolate a page.";
const FOLDER = new URL("../ort/", import.meta.url).href;

/** The names of the engines for people, the one first that is most likely the fastest; a comparison measures it. */
export const ENGINES = { webgpu: "WebGPU", webnn: "WebNN", wasm: "WebAssembly" };

/** What WebNN may compute on, the one first that is most likely the fastest. */
const NEURAL_DEVICES = ["npu", "gpu", "cpu"];

/**
 * `options`: { engine: "auto" or a key of ENGINES, threads: number or 0 for as many as make sense, measured: true if a
 * comparison selected the engine }. Resolves to { engine, threads, why: [sentences], adapter (WebGPU's name of it),
 * device (WebNN's), software, available: [keys of ENGINES] }.
 */
export async function choose({ engine: wanted = "auto", threads: requested = 0, measured = false }) {
  const reasons = { webgpu: [], webnn: [], wasm: [] };
  const adapter = await graphics(wanted === "webgpu", reasons.webgpu);
  const device = await neural(reasons.webnn);
  const available = [adapter && "webgpu", device && "webnn", "wasm"].filter(Boolean);
  const engine = available.includes(wanted) ? wanted : bestOf(adapter, device);
  const used = engine === "wasm" ? threads(requested, reasons.wasm) : 1;
  const software = Boolean(adapter?.software);
  const choice = { engine, threads: used, adapter: adapter?.name ?? null, device, software, available };
  return { ...choice, why: whyNot(engine, wanted, measured, reasons, available, device) };
}

/** WebNN on the processor computes where WebAssembly does: only a comparison tells which is faster there. */
function bestOf(adapter, device) {
  if (adapter) return "webgpu";
  return device && device !== "cpu" ? "webnn" : "wasm";
}

/** Return a sentence for each engine that comes before the chosen one, and what else there is to say of that one. */
function whyNot(engine, wanted, measured, reasons, available, device) {
  const chosenBy = measured ? "was faster in the comparison" : "is selected";
  const sentences = Object.keys(ENGINES).flatMap((other) => {
    if (other === engine) return reasons[other];
    if (engine === "webgpu" && other !== wanted) return [];
    if (!available.includes(other)) return reasons[other];
    if (engine === wanted && other !== "wasm") return [`${ENGINES[other]} is not used because ${ENGINES[engine]} ${chosenBy}.`];
    if (other === "webnn" && device === "cpu") return ["WebNN is there, but it would compute on the processor too: a comparison shows which is faster."];
    return [];
  });
  return sentences;
}

async function graphics(insist, why) {
  if (!self.isSecureContext) {
    why.push("No WebGPU: browsers give it to https and localhost only, and this page came over plain http.");
    return null;
  }
  if (!navigator.gpu) {
    why.push("No WebGPU: this browser does not have it.");
    return null;
  }
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) {
    why.push("No WebGPU: the browser has it, but found no graphics processor that it trusts.");
    return null;
  }
  const info = adapter.info ?? {};
  const name = info.description || [info.vendor, info.architecture].filter(Boolean).join(" ");
  const software =
    (info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false) || /swiftshader|llvmpipe/i.test(`${name} ${info.architecture}`);
  if (software) {
    if (!insist) {
      why.push(`No WebGPU: its only adapter (${name || "software"}) is computed by the processor, slower than WebAssembly.`);
      return null;
    }
    why.push("The WebGPU adapter is software: it shows that the network runs there, not how fast it is.");
  }
  return { name: name || "an adapter without a name", software };
}

/** Return the device that the browser's WebNN computes on, or null. */
async function neural(why) {
  if (!self.isSecureContext) {
    why.push("No WebNN: browsers give it to https and localhost only.");
    return null;
  }
  if (!navigator.ml?.createContext) {
    why.push("No WebNN: this browser does not have it.");
    return null;
  }
  let reason = "";
  for (const device of NEURAL_DEVICES) {
    try {
      (await navigator.ml.createContext({ deviceType: device })).destroy?.();
      return device;
    } catch (error) {
      reason = firstLine(error);
    }
  }
  why.push(`No WebNN: the browser has it, but no device for it (${reason}).`);
  return null;
}

function threads(requested, why) {
  const cores = navigator.hardwareConcurrency || 1;
  if (!self.crossOriginIsolated) {
    why.push(self.isSecureContext ? NOT_ISOLATED : "One thread: browsers share memory between threads on https and localhost only.");
    return 1;
  }
  const used = Math.min(requested || MAX_THREADS, cores);
  if (cores === 1) why.push("One thread: this device has one processor core.");
  else if (requested && used < Math.min(MAX_THREADS, cores)) why.push(`${counted(used)} of ${cores} cores, as selected.`);
  else if (requested > cores) why.push(`${counted(used)}, not ${requested}: this device has ${cores} cores.`);
  else if (used < cores) why.push(`${counted(used)} of ${cores} cores: a phone's further cores are slow ones, which the fast ones would wait for.`);
  return used;
}

function counted(threads) {
  return threads === 1 ? "One thread" : `${threads} threads`;
}

/** Load onnxruntime-web for a choice: WebAssembly is a module with a wasm of its own, WebGPU and WebNN share one. */
export async function runtimeFor(choice) {
  const file = choice.engine === "wasm" ? "ort.wasm.min.mjs" : "ort.webgpu.min.mjs";
  const ort = await import(`../ort/${file}`);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = FOLDER;
  ort.env.wasm.numThreads = choice.threads;
  return ort;
}

/**
 * Create a session without messages in the browser's console; errors are exceptions. `sizes`: the lengths of the axes
 * that the file leaves open, by their names, which WebNN's graphs need.
 */
export async function openSession(ort, choice, bytes, sizes) {
  const provider = choice.engine === "webnn" ? { name: "webnn", deviceType: choice.device } : choice.engine;
  return ort.InferenceSession.create(bytes, {
    executionProviders: [provider],
    logSeverityLevel: 4,
    graphOptimizationLevel: "all",
    ...(sizes && { freeDimensionOverrides: sizes }),
  });
}

export function firstLine(error) {
  return String(error?.message ?? error).trim().split("\n")[0].slice(0, 200);
}
