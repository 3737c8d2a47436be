// The service worker. PRECACHE (precache.js, written by the build) names every file of the app with its hash: a new
// build is a new version, which is fetched whole, checked, and takes over when the user accepts it.
/* global PRECACHE */
importScripts("precache.js");

const APP = `srkd-app-${PRECACHE.version}`;
const DATA = "srkd-data";
const LIST = "api/models.json";

const here = (path) => new URL(path, self.registration.scope).href;

self.addEventListener("install", (event) => event.waitUntil(Promise.all([keepApp(), keepData()])));

self.addEventListener("activate", (event) => event.waitUntil(dropOld().then(() => self.clients.claim())));

self.addEventListener("message", (event) => {
  const { data, ports } = event;
  if (data === "take over") self.skipWaiting();
  else if (data && "keep" in data) event.waitUntil(keepEngine(data.keep).then(() => missing(data.keep)).then((found) => ports[0].postMessage(found)));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || !url.href.startsWith(self.registration.scope)) return;
  const path = url.href.slice(self.registration.scope.length).split(/[?#]/)[0];
  if (path === LIST) event.respondWith(list(request, (work) => event.waitUntil(work)));
  else event.respondWith(answerFromCache(request, path));
});

/** All or nothing: if one file is missing or differs from the build, the old version stays. */
async function keepApp() {
  const cache = await caches.open(APP);
  await Promise.all(PRECACHE.files.filter(({ later }) => !later).map((file) => keepFile(cache, file)));
}

async function keepFile(cache, { path, integrity }) {
  const response = await fetch(here(path), { integrity, cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  await cache.put(here(path), response);
}

/** Store the files of an engine that this device uses; `later` names the engines of files not stored from the start. */
async function keepEngine(engine) {
  const cache = await caches.open(APP);
  for (const file of PRECACHE.files) {
    if (!file.later?.includes(engine) || (await cache.match(here(file.path)))) continue;
    await keepFile(cache, file).catch(() => {});
  }
}

/** Return what would be missing offline: models and samples of the list, the list itself, files of the engine. */
async function missing(engine) {
  if ((await findUncached(engine)).length) await keepData();
  return findUncached(engine);
}

async function findUncached(engine) {
  const [app, data] = [await caches.open(APP), await caches.open(DATA)];
  const list = await data.match(here(LIST));
  if (!list) return [LIST];
  const { models = [], samples = [] } = await list.json();
  const missing = [];
  for (const row of [...models, ...samples]) if (!(await data.match(addressOf(row)))) missing.push(row.url);
  for (const { path, later } of PRECACHE.files) {
    if (later?.includes(engine) && !(await app.match(here(path)))) missing.push(path);
  }
  return missing;
}

/** Store models and samples, so that the first visit is enough. A file that cannot be loaded does not stop the app. */
async function keepData() {
  const work = [];
  await list(new Request(here(LIST)), (each) => work.push(each));
  await Promise.all(work);
}

/** Answer with the server's list, or the stored one when offline. `later` receives the work of storing its files. */
async function list(request, later) {
  const cache = await caches.open(DATA);
  let response;
  try {
    response = await fetch(request, { cache: "no-cache" });
  } catch {
    return (await cache.match(here(LIST))) ?? new Response("offline", { status: 503 });
  }
  if (response.ok) {
    await cache.put(here(LIST), response.clone());
    later(response.clone().json().then((named) => keepNamed(cache, named)).catch(() => {}));
  }
  return isolated(response);
}

/** Store the files of the list and delete others. A file that cannot be loaded is left out; `missing` reports it. */
async function keepNamed(cache, { models = [], samples = [] }) {
  const listed = new Map([...models, ...samples].map((row) => [addressOf(row), row.sha256]));
  for (const { url } of await cache.keys()) if (url !== here(LIST) && !listed.has(url)) await cache.delete(url);
  for (const [address, sha256] of listed) {
    if (await cache.match(address)) continue;
    const response = await fetch(address, sha256 ? { integrity: integrityOf(sha256) } : {}).catch(() => null);
    if (response?.ok) await cache.put(address, response).catch(() => {});
  }
}

/** The hash in the address distinguishes files of the same name. */
function addressOf({ url, sha256 }) {
  return here(sha256 ? `${url}?v=${sha256.slice(0, 12)}` : url);
}

function integrityOf(sha256) {
  return `sha256-${btoa(sha256.match(/../g).map((pair) => String.fromCharCode(parseInt(pair, 16))).join(""))}`;
}

async function answerFromCache(request, path) {
  const file = PRECACHE.files.find(({ path: address }) => address === (path || "index.html"));
  const cache = await caches.open(file ? APP : DATA);
  const cached = await cache.match(file ? here(file.path) : request);
  if (cached) return isolated(cached);
  const response = await fetch(request);
  // Files of another engine are fetched when a device first uses it, and stored from then on.
  if (file && response.ok) await cache.put(here(file.path), response.clone());
  return isolated(response);
}

/** Add the headers that threads need, if the host does not send them. */
function isolated(response) {
  if (!response.body || response.type === "opaque" || response.redirected) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function dropOld() {
  for (const name of await caches.keys()) {
    if (name.startsWith("srkd-") && name !== APP && name !== DATA) await caches.delete(name);
  }
}
