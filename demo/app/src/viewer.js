// Two pictures and a divider: drag, pinch, pan, wheel, double tap, all of it also by keyboard.

const MAX_ZOOM = 32;
const SHARP_ABOVE = 3;
/** How many of the page's pixels a pixel of a sample covers at first, in each direction. */
const FOCUS_PIXELS = 3;
const TAP_PIXELS = 8;

export class Viewer {
  #pointers = new Map();
  #zoom = 1;
  #x = 0;
  #y = 0;
  #divide = 0.5;
  #ratio = 1;
  #lastTap = 0;

  /** `onChange()` is called after every zoom and pan. */
  constructor({ stage, left, right, divider, onChange }) {
    Object.assign(this, { stage, left, right, divider, onChange });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.#up(event));
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.#key(event));
    divider.addEventListener("keydown", (event) => this.#dividerKey(event));
    new ResizeObserver(() => this.#draw()).observe(stage);
  }

  /** Set the canvas of a side; both are laid over each other in the picture's proportions. */
  show(side, canvas) {
    if (this[side].firstChild !== canvas) this[side].replaceChildren(canvas);
    this.#draw();
  }

  /** Show a new picture: set its proportions and reset the view. */
  reset(width, height) {
    this.#ratio = width / height;
    this.stage.style.setProperty("--ratio", this.#ratio);
    this.#zoom = 1;
    this.#x = this.#y = 0;
    this.#draw();
  }

  get zoomed() {
    return this.#zoom > 1.05;
  }

  zoomBy(factor, at = this.#middle()) {
    const next = Math.min(Math.max(this.#zoom * factor, 1), MAX_ZOOM);
    const grown = next / this.#zoom;
    this.#x = at.x - (at.x - this.#x) * grown;
    this.#y = at.y - (at.y - this.#y) * grown;
    this.#zoom = next;
    this.#draw();
  }

  /** Centre the place at these shares of a picture of this width, so large that its pixels can be told apart. */
  focus([across, down], width) {
    const { box, sheetWidth } = this.#sheet();
    this.#zoom = Math.min(Math.max((width * FOCUS_PIXELS) / sheetWidth, 1), MAX_ZOOM);
    const after = this.#sheet();
    this.#x = box.width / 2 - across * after.sheetWidth;
    this.#y = box.height / 2 - down * after.sheetHeight;
    this.#draw();
  }

  fit() {
    this.#zoom = 1;
    this.#draw();
  }

  /** Return the middle of the view, as shares of the picture's width and height. */
  middle() {
    const { box, sheetWidth, sheetHeight } = this.#sheet();
    return [(box.width / 2 - this.#x) / sheetWidth, (box.height / 2 - this.#y) / sheetHeight];
  }

  /** Return the visible part, in whole pixels of a picture of this size. */
  visible(width, height) {
    const box = this.stage.getBoundingClientRect();
    const { sheetWidth, sheetHeight } = this.#sheet();
    const share = (from, whole) => Math.min(Math.max(from / whole, 0), 1);
    const left = Math.floor(share(-this.#x, sheetWidth) * width);
    const top = Math.floor(share(-this.#y, sheetHeight) * height);
    const right = Math.ceil(share(box.width - this.#x, sheetWidth) * width);
    const bottom = Math.ceil(share(box.height - this.#y, sheetHeight) * height);
    return { left, top, width: Math.max(right - left, 1), height: Math.max(bottom - top, 1) };
  }

  setDivide(share) {
    this.#divide = Math.min(Math.max(share, 0), 1);
    this.#draw();
  }

  #sheet() {
    const box = this.stage.getBoundingClientRect();
    const width = Math.min(box.width, box.height * this.#ratio) * this.#zoom;
    return { box, sheetWidth: width, sheetHeight: width / this.#ratio };
  }

  #draw() {
    const { box, sheetWidth, sheetHeight } = this.#sheet();
    this.#x = within(this.#x, box.width, sheetWidth);
    this.#y = within(this.#y, box.height, sheetHeight);
    const divide = this.#divide * box.width;
    for (const side of [this.left, this.right]) {
      side.style.width = `${sheetWidth}px`;
      side.style.height = `${sheetHeight}px`;
      side.style.transform = `translate(${this.#x}px, ${this.#y}px)`;
      const canvas = side.firstChild;
      const pixel = canvas ? sheetWidth / canvas.width : 0;
      side.style.imageRendering = pixel * devicePixelRatio > SHARP_ABOVE ? "pixelated" : "auto";
    }
    const cut = Math.min(Math.max(divide - this.#x, 0), sheetWidth);
    this.left.style.clipPath = `inset(0 ${sheetWidth - cut}px 0 0)`;
    this.right.style.clipPath = `inset(0 0 0 ${cut}px)`;
    this.divider.style.transform = `translateX(${divide}px)`;
    const percent = Math.round(this.#divide * 100);
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `${percent} percent of the view shows the left picture`);
    this.onChange?.();
  }

  #down(event) {
    if (event.target.closest("button, select, label, input") || event.button > 0) return;
    this.stage.setPointerCapture(event.pointerId);
    const slides = Boolean(event.target.closest("[role=slider]"));
    const { clientX: x, clientY: y } = event;
    this.#pointers.set(event.pointerId, { x, y, slides, from: { x, y } });
    // A second finger starts a pinch of both, until the last one is lifted.
    for (const each of this.#pointers.values()) each.pinches = this.#pointers.size > 1;
    if (slides) this.divider.focus({ preventScroll: true });
  }

  #move(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer) return;
    const before = this.#gesture();
    const from = { x: pointer.x, y: pointer.y };
    pointer.x = event.clientX;
    pointer.y = event.clientY;
    if (pointer.slides) {
      const box = this.stage.getBoundingClientRect();
      return this.setDivide((event.clientX - box.left) / box.width);
    }
    const after = this.#gesture();
    if (after.count > 1) {
      this.#x += after.x - before.x;
      this.#y += after.y - before.y;
      return this.zoomBy(after.spread / Math.max(before.spread, 1), after);
    }
    this.#x += pointer.x - from.x;
    this.#y += pointer.y - from.y;
    return this.#draw();
  }

  #up(event) {
    const pointer = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (!pointer || pointer.slides || pointer.pinches || event.type === "pointercancel") return;
    if (Math.hypot(pointer.x - pointer.from.x, pointer.y - pointer.from.y) > TAP_PIXELS) return;
    const now = event.timeStamp;
    if (now - this.#lastTap < 300) {
      if (this.zoomed) this.fit();
      else this.zoomBy(4, this.#inStage(event.clientX, event.clientY));
      this.#lastTap = 0;
    } else this.#lastTap = now;
  }

  /** Return the middle and the distance of the fingers that do not move the divider, in the stage's pixels. */
  #gesture() {
    const fingers = [...this.#pointers.values()].filter((each) => !each.slides);
    const mean = (key) => fingers.reduce((sum, each) => sum + each[key], 0) / Math.max(fingers.length, 1);
    const middle = this.#inStage(mean("x"), mean("y"));
    const [a, b] = fingers;
    return { ...middle, count: fingers.length, spread: b ? Math.hypot(a.x - b.x, a.y - b.y) : 0 };
  }

  #inStage(x, y) {
    const box = this.stage.getBoundingClientRect();
    return { x: x - box.left, y: y - box.top };
  }

  #middle() {
    const box = this.stage.getBoundingClientRect();
    return { x: box.width / 2, y: box.height / 2 };
  }

  #wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), this.#inStage(event.clientX, event.clientY));
  }

  #key(event) {
    if (event.target !== this.stage) return;
    const step = 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) {
      this.#x += moves[event.key][0];
      this.#y += moves[event.key][1];
      this.#draw();
    } else if (event.key === "+" || event.key === "=") this.zoomBy(1.5);
    else if (event.key === "-") this.zoomBy(1 / 1.5);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  #dividerKey(event) {
    const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
    if (event.key in steps) this.setDivide(this.#divide + steps[event.key]);
    else if (event.key === "Home") this.setDivide(0);
    else if (event.key === "End") this.setDivide(1);
    else return;
    event.preventDefault();
  }
}

/** Return the position of a sheet: in the middle if it fits, otherwise without a gap at either side. */
function within(at, room, length) {
  if (length <= room) return (room - length) / 2;
  return Math.min(0, Math.max(at, room - length));
}
