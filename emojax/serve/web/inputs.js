// A conversation as the model's input arrays, with modalities left out and noise put in.

import { MODALITIES } from "./check.js";

const SEED = 1;
const NOISY = ["audio", "visual"];

/**
 * Plain arrays by input name, for one row of L utterances.
 *
 * @param settings {modalities: those the model may see, noise: in training deviations}.
 */
export function inputsOf(conversation, model, { modalities, noise }) {
  const length = conversation.speaker.length;
  const present = conversation.present.slice();
  const inputs = { present };
  MODALITIES.forEach((m, column) => {
    const shown = modalities.includes(m);
    if (!shown) for (let i = 0; i < length; i++) present[3 * i + column] = 0;
    const features = conversation.features[m];
    inputs[m] = shown ? features.slice() : new Float32Array(features.length);
    if (shown && noise && NOISY.includes(m)) {
      addNoise(inputs[m], gaussian(conversation, m), conversation.present, column, model, noise);
    }
  });
  inputs.speaker = numbered(conversation.speaker, model);
  inputs.segment = new Int32Array(length).fill(1);
  return inputs;
}

function addNoise(features, gauss, present, column, model, noise) {
  const deviation = model.deviation[MODALITIES[column]];
  const width = deviation.length;
  for (let k = 0; k < features.length; k++) {
    const there = present[3 * Math.floor(k / width) + column];
    if (there) features[k] += noise * deviation[k % width] * gauss[k];
  }
}

/** Speakers as the model numbers them: by its own list, or as they appear. */
function numbered(names, model) {
  const known = new Map(model.embeds_speakers ? model.speakers.map((name, i) => [name, i]) : []);
  for (const name of names) if (!known.has(name)) known.set(name, known.size);
  return Int32Array.from(names, (name) => known.get(name));
}

const drawn = new WeakMap();

/** Standard normal numbers for a modality of a conversation, the same at every level of noise. */
function gaussian(conversation, modality) {
  if (!drawn.has(conversation)) drawn.set(conversation, {});
  const known = drawn.get(conversation);
  const size = conversation.features[modality].length;
  known[modality] ??= normal(size, SEED + MODALITIES.indexOf(modality));
  return known[modality];
}

/** Box and Muller's transform of mulberry32, so that a seed gives the same numbers everywhere. */
function normal(size, seed) {
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const numbers = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    numbers[i] = radius * Math.cos(angle);
    if (i + 1 < size) numbers[i + 1] = radius * Math.sin(angle);
  }
  return numbers;
}
