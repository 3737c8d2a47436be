// Chooses one of onnxruntime-web's engines, with the reasons why not a better one. Runs in the worker.

const MAX_THREADS = 4;

/** The remedy depends on the service worker, so the page adds it. */
export const NOT_ISOLATED = "One thread: the host does not send the headers that isolate a page.";
const FOLDER = new URL("../ort/", import.meta.url).href;

/** The names of the engines for people, the one first that is most likely the fastest; a comparison measures it. */
export const ENGINES = { webgpu: "WebGPU", wasm: "WebAssembly" };

/**
 * `options`: { engine: "auto" or a key of ENGINES, threads: number or 0 for as many as make sense, measured: true if a
 * comparison selected the engine }. Resolves to { engine, threads, why: [sentences], adapter (WebGPU's name of it),
 * software, available: [keys of ENGINES] }.
 */
export async function choose({ engine: wanted = "auto", threads: requested = 0, measured = false }) {
  const reasons = { webgpu: [], wasm: [] };
  const adapter = await graphics(wanted === "webgpu", reasons.webgpu);
  const available = [adapter && "webgpu", "wasm"].filter(Boolean);
  const engine = available.includes(wanted) ? wanted : available[0];
  const used = engine === "wasm" ? threads(requested, reasons.wasm) : 1;
  const choice = { engine, threads: used, adapter: adapter?.name ?? null, software: Boolean(adapter?.software), available };
  return { ...choice, why: whyNot(engine, wanted, measured, reasons, available) };
}

/** Return why WebGPU is not used, and what else there is to say of the chosen engine. */
function whyNot(engine, wanted, measured, reasons, available) {
  if (engine === "webgpu") return reasons.webgpu;
  if (!available.includes("webgpu")) return [...reasons.webgpu, ...reasons.wasm];
  const chosenBy = measured ? "was faster in the comparison" : "is selected";
  return [`WebGPU is not used because WebAssembly ${chosenBy}.`, ...reasons.wasm];
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

/** Load onnxruntime-web for a choice: WebAssembly is a module with a wasm of its own. */
export async function runtimeFor(choice) {
  const file = choice.engine === "wasm" ? "ort.wasm.min.mjs" : "ort.webgpu.min.mjs";
  const ort = await import(`../ort/${file}`);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = FOLDER;
  ort.env.wasm.numThreads = choice.threads;
  return ort;
}

/** Create a session without messages in the browser's console; errors are exceptions. */
export async function openSession(ort, choice, bytes) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: [choice.engine],
    logSeverityLevel: 4,
    graphOptimizationLevel: "all",
  });
}

export function firstLine(error) {
  return String(error?.message ?? error).trim().split("\n")[0].slice(0, 200);
}
