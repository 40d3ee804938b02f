// CSV: an utterance on each line, in columns conversation, speaker, transcript, label, text_0, ...,
// audio_0, ..., visual_0, ...; empty cells are missing.

import { MODALITIES, Refused, checkId, checked, quoted } from "./check.js";

const TEXTS = ["conversation", "speaker", "transcript", "label"];
const NEEDED = ["conversation", "speaker"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

export function readCsv(text, model) {
  const [header, ...lines] = table(text);
  const columns = header ? columnsOf(header.cells, model) : new Map();
  const grouped = new Map();
  for (const { line, cells } of lines) {
    if (cells.length !== header.cells.length) {
      const fix = `The first line has ${header.cells.length}; texts with commas need quotes`;
      throw new Refused(`${cells.length} cells`, { line, fix });
    }
    const cell = (name) => (columns.has(name) ? cells[columns.get(name)] : "");
    const id = checkId(cell("conversation"), { line, field: "conversation" });
    const row = {
      line, speaker: cell("speaker"), transcript: cell("transcript"), label: cell("label") || null,
    };
    for (const m of MODALITIES) {
      row[m] = numbers(m, columns.has(`${m}_0`) ? model.widths[m] : 0, cell, line);
    }
    if (!grouped.has(id)) grouped.set(id, []);
    grouped.get(id).push(row);
  }
  return [...grouped].map(([id, rows]) => {
    const at = (i, field) => ({ line: rows[i ?? 0].line, conversation: id, field });
    return checked(id, rows, at, model);
  });
}

/** Column numbers by name. */
function columnsOf(cells, model) {
  const columns = new Map();
  cells.forEach((cell, column) => {
    const name = cell.trim();
    const [, modality, number] = /^(text|audio|visual)_(\d{1,6})$/.exec(name) ?? [];
    const where = { line: 1 };
    if (!TEXTS.includes(name) && !modality) {
      const fix = `Known are ${TEXTS.join(", ")}, text_0, audio_0, visual_0 and so on`;
      throw new Refused(`there is no column ${quoted(name)}`, { ...where, fix });
    }
    if (modality && Number(number) >= model.widths[modality]) {
      const width = model.widths[modality];
      const fix = `The model takes ${width} ${modality} columns, from ${modality}_0`;
      throw new Refused(`there is no column ${quoted(name)}`, { ...where, fix });
    }
    if (columns.has(name)) throw new Refused(`column ${quoted(name)} stands twice`, where);
    columns.set(name, column);
  });
  const missing = [...NEEDED];
  for (const m of MODALITIES) {
    const wanted = Array.from({ length: model.widths[m] }, (_, i) => `${m}_${i}`);
    if (wanted.some((name) => columns.has(name))) missing.push(...wanted);
  }
  const absent = missing.find((name) => !columns.has(name));
  if (absent) {
    const fix = "Columns are parted by commas and named in the first line";
    throw new Refused(`there is no column ${absent}`, { line: 1, fix });
  }
  return columns;
}

/** A modality's numbers of a row, or null if all its cells are empty. */
function numbers(modality, width, cell, line) {
  const cells = Array.from({ length: width }, (_, i) => cell(`${modality}_${i}`).trim());
  if (!cells.some(Boolean)) return null;
  return cells.map((text, i) => {
    if (!NUMBER.test(text)) {
      const problem = text ? `${quoted(text)} is not a number` : "empty, though others are not";
      const fix = `Give a number, or leave all ${modality} cells of the line empty`;
      throw new Refused(problem, { line, field: `${modality}_${i}`, fix });
    }
    return Number(text);
  });
}

/** Lines that are not blank, as {line, cells}; quoted cells may hold commas, quotes and breaks. */
function table(given) {
  const text = given.replace(/\r\n?/g, "\n");
  const rows = [];
  let [cells, cell, quotedCell, line, begun] = [[], "", false, 1, 1];
  const endRow = () => {
    cells.push(cell);
    if (cells.length > 1 || cells[0].trim()) rows.push({ line: begun, cells });
    [cells, cell, begun] = [[], "", line];
  };
  // Up to the next character that means something, whole stretches at once.
  const special = /["\n,]/g;
  let place = 0;
  while (place < text.length) {
    special.lastIndex = place;
    const next = special.exec(text)?.index ?? text.length;
    cell += text.slice(place, next);
    const sign = text[next];
    place = next + 1;
    if (sign === "\n") line += 1;
    if (quotedCell) {
      if (sign !== '"') {
        cell += sign ?? "";
      } else if (text[place] === '"') {
        cell += '"';
        place += 1;
      } else {
        quotedCell = false;
      }
    } else if (sign === '"') {
      if (cell.trim()) {
        const fix = "Double it and quote the whole cell";
        throw new Refused("a quote inside a cell", { line, fix });
      }
      [quotedCell, cell] = [true, ""];
    } else if (sign === ",") {
      cells.push(cell);
      cell = "";
    } else if (sign === "\n") {
      endRow();
    }
  }
  if (quotedCell) throw new Refused("a quote is not closed", { line: begun, fix: "Close it" });
  if (cell || cells.length) endRow();
  return rows;
}
