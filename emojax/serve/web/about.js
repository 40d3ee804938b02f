// What the page tells of its model, and what a file for it looks like.

import { MODALITIES } from "./check.js";
import { $ } from "./dom.js";

export function tellOf(model) {
  const { name, labels, validation_f1: f1, version } = model;
  document.title = `${name}: emotions in a conversation`;
  $("name").textContent = name;
  const score = typeof f1 === "number" ? `Weighted F1 on validation: ${f1.toFixed(3)}. ` : "";
  $("about").textContent = `Tells ${labels.join(", ")}. ${score}Version ${version}.`;
  $("json-lines").textContent = jsonLine(model);
  const columns = MODALITIES.map((m) => `${m}_0,…,${m}_${model.widths[m] - 1}`);
  $("csv").textContent = `conversation,speaker,transcript,label,${columns.join(",")}`;
  $("limits").textContent = limits(model);
}

function jsonLine({ labels, speakers, widths, embeds_speakers: known }) {
  const some = (n) => `[${["0.1", "-2", "0.7"].slice(0, n).join(", ")}${n > 3 ? ", …" : ""}]`;
  const features = MODALITIES.map((m) => `"${m}": ${m === "visual" ? "null" : some(widths[m])}`);
  const fields = [
    `"speaker": ${JSON.stringify(known ? speakers[0] : "Ann")}`, ...features,
    `"transcript": "Well."`, `"label": ${JSON.stringify(labels[0])}`,
  ];
  return `{"id": "a", "utterances": [{${fields.join(", ")}}, …]}`;
}

function limits({ widths, speakers, text_encoder: encoder, embeds_speakers: known }) {
  const numbers = MODALITIES.map((m) => `${widths[m]} numbers of ${m}`);
  const told = [`The model takes ${numbers.join(", ")}.`];
  if (encoder) told.push(`Text features are those of ${encoder}, which does not run on this page.`);
  if (known) told.push(`It knows the speakers ${speakers.join(", ")}.`);
  return told.join(" ");
}
