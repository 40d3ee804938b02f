// A file as conversations, whichever of the two layouts it has.

import { Refused } from "./check.js";
import { readCsv } from "./csv.js";
import { readJsonLines } from "./json_lines.js";

const LARGEST = 256 * 2 ** 20;

/** @param file a Blob. @returns what `checked` returns, for each conversation. */
export async function readConversations(file, model) {
  if (file.size > LARGEST) {
    const fix = "Split it: any number of conversations makes a file";
    throw new Refused(`larger than ${LARGEST / 2 ** 20} MiB`, { fix });
  }
  const text = decoded(await file.arrayBuffer());
  const read = /^\s*[{[]/.test(text) ? readJsonLines : readCsv;
  const found = read(text, model);
  if (!found.length) throw new Refused("there is no conversation in it");
  return found;
}

function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Refused("not UTF-8", { fix: "Save the file as UTF-8" });
  }
}
