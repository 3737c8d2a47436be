// Files from the user: by the buttons, by paste, by drop. Models and photos may come together. Files to the user: downloads.

import { part, trouble } from "./panel.js";

/** `show(file, name)` receives a photo, `play(file, name)` a film, `openModels(files)` networks; none does unless `isOpen()`. */
export function wireFiles({ show, play, openModels, isOpen }) {
  const take = (list) => {
    const files = isOpen() ? [...(list ?? [])] : [];
    const networks = files.filter(({ name }) => /\.onnx$/i.test(name));
    const photos = files.filter((file) => !networks.includes(file));
    if (networks.length) openModels(networks);
    if (!photos.length) return;
    const [first] = photos;
    if (isFilm(first)) play(first, first.name || "the film");
    else show(first, first.name || "pasted.png");
    if (photos.length > 1) trouble(`One photo or film at a time: of these ${photos.length}, ${first.name} is opened.`);
  };
  for (const id of ["library", "shoot", "model-file"]) {
    part(id).addEventListener("change", ({ target }) => {
      take(target.files);
      target.value = "";
    });
  }
  addEventListener("paste", ({ clipboardData }) => take(clipboardData?.files));
  const mark = (on) => document.body.classList.toggle("dragging", on && isOpen());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || mark(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    take(event.dataTransfer.files);
  });
}

export function download(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Some systems know no type for a film's file. */
function isFilm({ type, name }) {
  return type.startsWith("video/") || (!type && /\.(mp4|m4v|mov|webm|mkv|ogv)$/i.test(name));
}
