// The service worker from the page's side: registration, a clean update, isolation on static hosts, installing.

const RELOADED = "srkd-reloaded-for-isolation";

/** Why the app cannot be kept for offline use here, or null. */
export function offlineObstacle() {
  if (!window.isSecureContext) return "Not kept for offline use: that needs https or localhost.";
  if (!navigator.serviceWorker) return "Not kept for offline use: this browser (or private window) has no service worker.";
  return null;
}

/** Register; `onReady()` when everything is kept, `onUpdate(apply)` when a new version waits. */
export async function keepOffline({ onReady, onUpdate }) {
  if (offlineObstacle()) return;
  const workers = navigator.serviceWorker;
  const controlled = Boolean(workers.controller);
  let updating = false;
  workers.addEventListener("controllerchange", () => {
    if (updating) location.reload();
  });
  const registration = await workers.register("sw.js", { type: "classic", updateViaCache: "none" });
  const offer = (worker) =>
    onUpdate(() => {
      updating = true;
      worker.postMessage("take over");
    });
  if (registration.waiting && controlled) offer(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker?.addEventListener("statechange", () => {
      if (worker.state === "installed" && workers.controller) offer(worker);
    });
  });
  await workers.ready;
  onReady();
  reloadForIsolation();
}

/** A static host sends no isolation headers; the service worker adds them to the next load, so that is made now, once. */
function reloadForIsolation() {
  if (window.crossOriginIsolated || sessionStorage.getItem(RELOADED) || document.body.dataset.mode !== "empty") return;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
}

/** Shows `button` while the browser offers to install the app. */
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
