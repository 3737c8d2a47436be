// Chooses one of onnxruntime-web's engines, with the reasons why not a better one. Runs in the worker.

const MAX_THREADS = 4;

/** The remedy depends on the service worker, so the page adds it. */
export const NOT_ISOLATED = "One thread: the host does not send the headers that isolate a page.";
const FOLDER = new URL("../ort/", import.meta.url).href;

/**
 * `options`: { engine: "auto" | "webgpu" | "wasm", threads: number or 0 for as many as make sense }.
 * Resolves to { engine, threads, why: [sentences], adapter }.
 */
export async function choose(options) {
  const why = [];
  const adapter = options.engine === "wasm" ? null : await graphics(options.engine === "webgpu", why);
  if (options.engine === "wasm") why.push("WebGPU is not used because WebAssembly is selected.");
  if (adapter) return { engine: "webgpu", threads: 1, why, adapter };
  return { engine: "wasm", threads: threads(options.threads, why), why, adapter: null };
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
  const software = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
  const name = [adapter.info?.vendor, adapter.info?.architecture].filter(Boolean).join(" ");
  if (software || /swiftshader|llvmpipe/i.test(name)) {
    if (!insist) {
      why.push(`No WebGPU: its only adapter (${name || "software"}) is computed by the processor, slower than WebAssembly.`);
      return null;
    }
    why.push("The WebGPU adapter is software: it shows that the network runs there, not how fast it is.");
  }
  return name || "an adapter without a name";
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

/** Load onnxruntime-web for a choice. The two engines are separate modules with a wasm each. */
export async function runtimeFor(choice) {
  const file = choice.engine === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  const ort = await import(`../ort/${file}`);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = FOLDER;
  ort.env.wasm.numThreads = choice.threads;
  return ort;
}

/** Create a session without messages in the browser's console; errors are exceptions. */
export async function openSession(ort, choice, bytes) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: [choice.engine === "webgpu" ? "webgpu" : "wasm"],
    logSeverityLevel: 4,
    graphOptimizationLevel: "all",
  });
}
