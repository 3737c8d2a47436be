// The report's script: it moves the comparator's divider.
// It reads what stands in the page and fetches nothing. Texts are set as text, never as markup.
"use strict";

// One comparator a run. Its pictures are those of the crops below it: no picture is in the page twice.
function startComparator(comparator) {
  const stage = comparator.querySelector(".stage");
  const slider = stage.querySelector("input");
  const crop = comparator.querySelector("[data-crop]");
  const sides = { left: comparator.querySelector("[data-side=left]"), right: comparator.querySelector("[data-side=right]") };

  const crops = comparator.parentElement.querySelectorAll(".crop");

  const figure = (layer) => crops[crop.value].querySelector(`img[data-layer="${layer}"]`);

  function move() {
    stage.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % ${sides.left.value}, the rest ${sides.right.value}`);
  }

  function show() {
    const left = figure(sides.left.value);
    const right = figure(sides.right.value);
    stage.querySelector(".over").src = left.src;
    stage.querySelector(".under").src = right.src;
    stage.querySelector(".name.left").textContent = sides.left.value;
    stage.querySelector(".name.right").textContent = sides.right.value;
    const score = (image) => image.closest("figure").querySelector("figcaption").textContent;
    comparator.querySelector(".scores").textContent =
      `Left ${score(left)}, right ${score(right)}: Y-PSNR of this crop to the ${comparator.dataset.goal}.`;
    slider.setAttribute("aria-label", `Divider: ${sides.left.value} left of it, ${sides.right.value} right of it`);
    move();
  }

  // Moving the strength shows it on the right: sharper towards its end.
  const strength = comparator.querySelector("[data-strengths]");
  strength?.addEventListener("input", () => {
    sides.right.value = strength.dataset.strengths.split(",")[strength.value];
    strength.setAttribute("aria-valuetext", sides.right.value);
    show();
  });

  slider.addEventListener("input", move);
  for (const select of [crop, sides.left, sides.right]) {
    select.addEventListener("change", show);
  }
  show();
  comparator.hidden = false;
}

document.querySelectorAll(".comparator").forEach(startComparator);
