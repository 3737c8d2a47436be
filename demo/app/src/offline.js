// The service worker from the page's side: registration, a clean update, isolation on static hosts, installing.

const RELOADED = "srkd-reloaded-for-isolation";

/** Return why the app cannot be stored for offline use here, or null. */
export function offlineObstacle() {
  if (!window.isSecureContext) return "Not kept for offline use: that needs https or localhost.";
  if (!navigator.serviceWorker) return "Not kept for offline use: this browser (or private window) has no service worker.";
  return null;
}

/**
 * Register the service worker. `onReady(missing)`: everything but the addresses in `missing` is stored; `onUpdate(apply)`:
 * a new version waits; `onReplaced()`: another tab uses a new version. The files of `engine` are stored too.
 */
export async function keepOffline({ engine, onReady, onUpdate, onReplaced }) {
  if (offlineObstacle()) return;
  const workers = navigator.serviceWorker;
  let controlled = Boolean(workers.controller);
  let updating = false;
  const waitsFor = controlled;
  workers.addEventListener("controllerchange", () => {
    if (updating) location.reload();
    else if (controlled) onReplaced();
    controlled = true;
  });
  const registration = await workers.register("sw.js", { type: "classic", updateViaCache: "none" });
  const offer = (worker) =>
    onUpdate(() => {
      updating = true;
      worker.postMessage("take over");
    });
  if (registration.waiting && waitsFor) offer(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker?.addEventListener("statechange", () => {
      if (worker.state === "installed" && workers.controller) offer(worker);
    });
  });
  await Promise.race([workers.ready, firstFailure(registration)]);
  onReady(await keepEngine(engine));
  reloadForIsolation();
}

/** Reject if the very first worker could not be installed, because then nothing would become ready. */
function firstFailure({ active, installing }) {
  return new Promise((_, reject) => {
    if (active || !installing) return;
    installing.addEventListener("statechange", () => {
      if (installing.state === "redundant") reject(new Error("a file of the app could not be loaded."));
    });
  });
}

/** Store the files of an engine too, if they are not stored from the start. Resolves to the missing addresses. */
export async function keepEngine(engine) {
  const { active } = await navigator.serviceWorker.ready;
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    active.postMessage({ keep: engine }, [port2]);
  });
}

/** A static host sends no isolation headers; the service worker adds them from the next load on, so reload once now. */
function reloadForIsolation() {
  if (window.crossOriginIsolated || sessionStorage.getItem(RELOADED) || document.body.dataset.mode !== "empty") return;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
}

/** Show `button` while the browser offers to install the app. */
export function offerInstall(button) {
  let offered = null;
  window.addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    offered = event;
    button.hidden = false;
  });
  window.addEventListener("appinstalled", () => (button.hidden = true));
  button.addEventListener("click", async () => {
    button.hidden = true;
    await offered?.prompt();
  });
}
