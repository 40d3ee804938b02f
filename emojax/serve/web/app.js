// The page: opens files, asks the worker, shows what it says.

import { MODALITIES } from "./check.js";
import { Detail } from "./detail.js";
import { $, colour, element } from "./dom.js";
import { asJson, decide, viewOf } from "./predictions.js";
import { settings, watchSettings } from "./settings.js";
import { Timeline } from "./timeline.js";

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const timeline = new Timeline($("timeline"), showUtterance);
let model;
let detail;
let conversations = [];
let conversation;
let ticket = 0; // of the latest request; answers to earlier ones are thrown away
let answer = null; // {decisions, result, settings}
let timer;

const tasks = {
  ready() {
    for (const button of [$("choose"), $("example")]) button.disabled = false;
    if (!conversation) say("Ready. Open a conversation.");
  },
  failed({ message }) {
    $("problem").textContent = `The model could not be run: ${message}`;
    say("");
  },
  refused({ name, message }) {
    const kept = conversation ? "\nThe conversation opened before is still there." : "";
    $("problem").textContent = `${name} was not opened. ${capital(message)}${kept}`;
    say("");
  },
  opened({ conversations: found }) {
    $("problem").textContent = "";
    conversations = found;
    $("conversation").replaceChildren(
      ...found.map(({ id }, index) => element("option", { text: id, value: index })),
    );
    $("which").hidden = found.length === 1;
    $("opened").hidden = false;
    showConversation(0);
  },
  predicted(told) {
    if (told.ticket !== ticket) return;
    const decisions = decide(told.probability, conversation, model.labels);
    answer = { decisions, result: { ...told, contribution: null }, settings: told.settings };
    timeline.paint(decisions);
    if (timeline.selected === undefined) timeline.select(0);
    else showUtterance(timeline.selected);
    count(decisions);
    say(summary(decisions, told.milliseconds));
  },
  explained(told) {
    if (told.ticket !== ticket) return;
    answer.result.contribution = told.contribution;
    $("download").disabled = false;
    showUtterance(timeline.selected);
  },
};

worker.onmessage = ({ data }) => tasks[data.kind](data);
worker.onerror = (event) => tasks.failed({ message: event.message || "the worker did not start" });

function read(file, name) {
  say(`Reading ${name}…`);
  worker.postMessage({ kind: "read", file, name });
}

function showConversation(index) {
  conversation = conversations[index];
  $("conversation").value = index;
  answer = null;
  timeline.show(conversation);
  $("legend").replaceChildren();
  predict();
}

function predict() {
  ticket += 1;
  $("download").disabled = true;
  const index = conversations.indexOf(conversation);
  worker.postMessage({ kind: "predict", ticket, index, settings: settings() });
}

function changed(milliseconds) {
  clearTimeout(timer);
  if (!conversation) return;
  $("download").disabled = true; // until there are predictions for these settings
  timer = setTimeout(predict, milliseconds);
}

function state() {
  return { conversation, labels: model.labels, ...answer };
}

function showUtterance(index) {
  if (answer) detail.show(viewOf(index, state()));
}

function count(decisions) {
  const counts = model.labels.map((name, i) => [name, i, decisions.filter((d) => d.index === i).length]);
  $("legend").replaceChildren(
    ...counts.map(([name, i, n]) => element("li", { class: colour(i), text: `${name} ${n}` })),
  );
}

function summary(decisions, milliseconds) {
  const known = conversation.label.filter((label) => label !== null).length;
  const right = known - decisions.filter(({ mistake }) => mistake).length;
  const speakers = new Set(conversation.speaker).size;
  const parts = [
    `${amount(decisions.length, "utterance")} of ${amount(speakers, "speaker")}`,
    `predicted in ${Math.max(1, Math.round(milliseconds))} ms`,
  ];
  if (known) parts.push(`${right} of ${known} as labelled in the file`);
  const blind = settings().modalities.length ? "" : " The model sees nothing: it says what is usual.";
  return `${parts.join(", ")}.${blind}`;
}

const amount = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function say(text) {
  $("status").textContent = text;
}

function download() {
  const blob = new Blob([asJson(model, state())], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "predictions.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function openExample() {
  const response = await fetch("example.jsonl").catch(() => null);
  if (response?.ok) read(await response.blob(), "The example");
  else $("problem").textContent = "There is no example.jsonl in this page's folder.";
}

function acceptFiles() {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) read(file, file.name);
    target.value = ""; // so that the same file, mended, can be chosen again
  });
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    dropping(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? dropping(false));
  addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser would leave the page for the file
    dropping(false);
    const [file] = event.dataTransfer.files;
    if (file && !$("choose").disabled) read(file, file.name);
  });
}

/** A model's facts, and files in its widths and labels. */
function describe() {
  const { name, labels, widths, validation_f1: f1, version } = model;
  document.title = `${name}: emotions in a conversation`;
  $("name").textContent = name;
  $("about").textContent =
    `Tells ${labels.join(", ")}.` +
    (typeof f1 === "number" ? ` Weighted F1 on the validation split: ${f1.toFixed(3)}.` : "") +
    ` Version ${version}.`;
  const list = (n) => `[${["0.1", "-2", "0.7"].slice(0, n).join(", ")}${n > 3 ? ", …" : ""}]`;
  const given = MODALITIES.map((m) => `"${m}": ${m === "visual" ? "null" : list(widths[m])}`);
  $("json-lines").textContent =
    `{"id": "a", "utterances": [{"speaker": "${model.embeds_speakers ? model.speakers[0] : "Ann"}", ` +
    `${given.join(", ")}, "transcript": "Well.", "label": "${labels[0]}"}, …]}`;
  const columns = MODALITIES.map((m) => `${m}_0,…,${m}_${widths[m] - 1}`);
  $("csv").textContent = `conversation,speaker,transcript,label,${columns.join(",")}`;
  const numbers = MODALITIES.map((m) => `${widths[m]} numbers of ${m}`);
  const encoder = model.text_encoder
    ? ` Text features are those of ${model.text_encoder}, which does not run on this page.` : "";
  const speakers = model.embeds_speakers ? ` It knows the speakers ${model.speakers.join(", ")}.` : "";
  $("limits").textContent = `The model takes ${numbers.join(", ")}.${encoder}${speakers}`;
}

async function start() {
  try {
    model = await (await fetch("model.json")).json();
  } catch (error) {
    tasks.failed({ message: `model.json cannot be read (${error.message})` });
    return;
  }
  describe();
  detail = new Detail(model.labels);
  watchSettings(changed);
  acceptFiles();
  $("example").addEventListener("click", openExample);
  $("conversation").addEventListener("change", ({ target }) => showConversation(Number(target.value)));
  $("download").addEventListener("click", download);
  say("Loading the model…");
  worker.postMessage({ kind: "start", model });
}

start();
