// What a conversation must be for the model of this page, whatever file it came from: the rules of
// `emojax predict`.

export const MODALITIES = ["text", "audio", "visual"];
const LONGEST_ID = 200;

/** A file that cannot be used; the message names the place and what would be right. */
export class Refused extends Error {
  constructor(problem, { line, conversation, field, fix } = {}) {
    const place = [
      line && `line ${line}`,
      conversation !== undefined && `conversation ${quoted(conversation)}`,
      field && `field ${field}`,
    ];
    const where = place.filter(Boolean).join(", ");
    super(`${where && `${where}: `}${problem}.${fix ? ` ${fix}.` : ""}`);
  }
}

/** A value as JSON, cut where it is long: it goes into a message. */
export function quoted(value) {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

/** The JSON type of a value, in words. */
export function kind(value) {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return "a list";
  const names = { boolean: "true or false", number: "a number", string: "a text" };
  return names[typeof value] ?? "an object";
}

export function checkId(id, at) {
  if (typeof id !== "string" || !id || id.length > LONGEST_ID) {
    const fix = `Give a text of 1 to ${LONGEST_ID} characters`;
    throw new Refused(`${quoted(id)} is not an id`, { ...at, fix });
  }
  return id;
}

/**
 * A conversation as arrays.
 *
 * @param rows one object for each utterance: speaker, transcript, label, and for each modality a
 *   list of numbers or null.
 * @param at (utterance or null, field) -> where that stands in the file, for messages.
 * @returns {id, speaker (names), transcript, label (name or null), present: Uint8Array [L, M],
 *   features: a Float32Array [L, D_m] for each modality, zeros where it is missing}.
 */
export function checked(id, rows, at, model) {
  const present = Uint8Array.from(
    rows.flatMap((row) => MODALITIES.map((m) => (row[m] ?? null) !== null)),
  );
  if (!present.includes(1)) {
    const fix = model.text_encoder
      ? "On this page transcripts do not become text features: give features"
      : "Transcripts alone are not read: give text, audio or visual features";
    const field = at(null, "utterances");
    throw new Refused("no utterance has features of any modality", { ...field, fix });
  }
  return {
    id,
    speaker: rows.map((row, i) => speaker(row.speaker, at(i, "speaker"), model)),
    transcript: rows.map((row, i) => words(row.transcript, at(i, "transcript"))),
    label: rows.map((row, i) => label(row.label, at(i, "label"), model)),
    present,
    features: Object.fromEntries(
      MODALITIES.map((m) => [m, features(rows, m, model.widths[m], at)]),
    ),
  };
}

function features(rows, modality, width, at) {
  const all = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    const values = row[modality] ?? null;
    if (values === null) return;
    const where = at(i, modality);
    if (!Array.isArray(values)) {
      throw new Refused(`${kind(values)} where a list of numbers is expected`, where);
    }
    if (values.length !== width) {
      const fix = `The model takes ${width}`;
      throw new Refused(`${values.length} numbers`, { ...where, fix });
    }
    const bad = values.find(
      (value) => typeof value !== "number" || !Number.isFinite(Math.fround(value)),
    );
    if (bad !== undefined) {
      const fix = "Features must be finite numbers";
      throw new Refused(`${quoted(bad)} is not a finite 32-bit number`, { ...where, fix });
    }
    all.set(values, i * width);
  });
  return all;
}

function speaker(name, where, model) {
  if (typeof name !== "string" || !name) {
    throw new Refused(`${quoted(name)} is not a speaker's name`, { ...where, fix: "Give a text" });
  }
  return model.embeds_speakers ? among(name, model.speakers, where) : name;
}

function words(text, where) {
  if ((text ?? null) === null) return "";
  if (typeof text !== "string") {
    throw new Refused(`${kind(text)} where a text or null is expected`, where);
  }
  return text;
}

function label(name, where, model) {
  return (name ?? null) === null ? null : among(name, model.labels, where);
}

function among(name, known, where) {
  if (!known.includes(name)) {
    const fix = `Known are ${known.join(", ")}`;
    throw new Refused(`the model does not know ${quoted(name)}`, { ...where, fix });
  }
  return name;
}
