// What the model gets to see, and whether this browser remembers it. Nothing is kept unasked.

import { MODALITIES } from "./check.js";
import { $ } from "./dom.js";

const KEY = "emojax.settings";
const boxes = () => [...$("modalities").querySelectorAll("input")];

export function settings() {
  const modalities = boxes().filter((box) => box.checked).map((box) => box.value);
  return { modalities, noise: Number($("noise").value) };
}

/** @param changed called with the milliseconds to wait for more, as a slider has. */
export function watchSettings(changed) {
  recall();
  say();
  const watch = (id, event, wait) => $(id).addEventListener(event, () => {
    say();
    keep();
    changed(wait);
  });
  watch("modalities", "change", 0);
  watch("noise", "input", 100);
  $("remember").addEventListener("change", keep);
}

function say() {
  const { noise } = settings();
  $("noise-said").textContent = noise ? `${noise.toFixed(1)} deviations` : "none";
}

function keep() {
  try {
    localStorage.removeItem(KEY);
    if ($("remember").checked) localStorage.setItem(KEY, JSON.stringify(settings()));
  } catch {
    $("remember").checked = false; // this browser does not let pages keep anything
  }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    if (!kept) return;
    for (const box of boxes()) box.checked = kept.modalities.includes(box.value);
    $("noise").value = Number(kept.noise) || 0;
    $("remember").checked = true;
  } catch {
    for (const box of boxes()) box.checked = MODALITIES.includes(box.value);
  }
}
