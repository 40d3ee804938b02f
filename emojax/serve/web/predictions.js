// What the model said, by name: for the page, and as the file that is downloaded, whose utterances
// have the fields that `emojax predict` writes, but for `weights` and `contradiction`.

import { MODALITIES } from "./check.js";

const rounded = (value) => Number(value.toFixed(6));
const named = (names, values) => Object.fromEntries(names.map((name, i) => [name, values[i]]));
const row = (values, index, width) => [...values.subarray(index * width, (index + 1) * width)];

/** For each utterance what was decided: {index, name, confidence, mistake}. */
export function decide(probability, conversation, labels) {
  return conversation.speaker.map((_, i) => {
    const each = row(probability, i, labels.length);
    const index = each.indexOf(Math.max(...each));
    const known = conversation.label[i];
    const mistake = known !== null && known !== labels[index];
    return { index, name: labels[index], confidence: each[index], mistake };
  });
}

/** All that is known of one utterance, for `Detail.show`. */
export function viewOf(index, { conversation, decisions, result, settings, labels }) {
  const classes = labels.length;
  const alone = result.alone && MODALITIES.map(
    (_, m) => row(result.alone, index * MODALITIES.length + m, classes),
  );
  return {
    conversation, index, alone,
    decision: decisions[index],
    probability: row(result.probability, index, classes),
    contribution: result.contribution && row(result.contribution, index, MODALITIES.length),
    seen: MODALITIES.map((m, column) =>
      settings.modalities.includes(m) && Boolean(conversation.present[index * 3 + column])),
  };
}

/** The file's content. */
export function asJson(model, state) {
  const { conversation, decisions, settings, labels } = state;
  const utterances = decisions.map(({ name, confidence }, i) => {
    const { probability, contribution, seen } = viewOf(i, state);
    const most = contribution.indexOf(Math.max(...contribution));
    return {
      utterance: i + 1,
      speaker: conversation.speaker[i],
      transcript: conversation.transcript[i],
      label: conversation.label[i],
      predicted: name,
      confidence: rounded(confidence),
      probabilities: named(labels, probability.map(rounded)),
      modality: contribution[most] > 0 ? MODALITIES[most] : null,
      contributions: named(MODALITIES, contribution.map(rounded)),
      present: named(MODALITIES, seen),
    };
  });
  const content = {
    conversation: conversation.id,
    model: { name: model.name, version: model.version },
    settings: { modalities: settings.modalities, noise: settings.noise },
    utterances,
  };
  return `${JSON.stringify(content, null, 1)}\n`;
}
