// JSON lines: a conversation on each. Fields of other names are refused, as a misspelt modality
// would otherwise pass for a missing one.

import { MODALITIES, Refused, checkId, checked, kind, quoted } from "./check.js";

const CONVERSATION = ["id", "utterances"];
const UTTERANCE = ["speaker", ...MODALITIES, "transcript", "label"];

export function readJsonLines(text, model) {
  const seen = new Map();
  const found = [];
  text.split("\n").forEach((content, index) => {
    if (!content.trim()) return;
    const line = index + 1;
    const given = object(decoded(content, line), "conversation", CONVERSATION, { line });
    const id = checkId(given.id, { line, field: "id" });
    const place = { line, conversation: id };
    if (seen.has(id)) {
      const problem = `the id is that of line ${seen.get(id)}`;
      throw new Refused(problem, { ...place, field: "id", fix: "Give every line its own" });
    }
    seen.set(id, line);
    const at = (i, field) => ({
      ...place, field: i === null ? field : `utterances[${i}].${field}`,
    });
    found.push(checked(id, utterances(given.utterances, place), at, model));
  });
  return found;
}

function decoded(content, line) {
  try {
    return JSON.parse(content);
  } catch (error) {
    const fix = "Write one whole conversation a line";
    throw new Refused(`not JSON: ${error.message.slice(0, 120)}`, { line, fix });
  }
}

function utterances(rows, place) {
  if (!Array.isArray(rows) || !rows.length) {
    const found = Array.isArray(rows) ? "an empty list" : kind(rows);
    const field = { ...place, field: "utterances" };
    throw new Refused(`${found} where a list of utterances is expected`, field);
  }
  return rows.map((row, i) =>
    object(row, "utterance", UTTERANCE, { ...place, field: `utterances[${i}]` }));
}

function object(value, what, known, where) {
  if (kind(value) !== "an object") {
    throw new Refused(`${kind(value)} where an object, one ${what}, is expected`, where);
  }
  for (const name of Object.keys(value)) {
    if (!known.includes(name)) {
      const fix = `Known are ${known.join(", ")}`;
      throw new Refused(`there is no field ${quoted(name)}`, { ...where, fix });
    }
  }
  return value;
}
