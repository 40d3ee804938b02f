// The page: opens files, asks the worker, shows what it says.

import { tellOf } from "./about.js";
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
let answer = null; // {decisions, result, settings, said}
let timer;

const READY = "Ready. Open a conversation.";

const tasks = {
  ready() {
    for (const button of [$("choose"), $("example")]) button.disabled = false;
    if (!conversation) say(READY);
  },
  failed({ message }) {
    $("problem").textContent = `The model could not be run: ${message}`;
    say("");
  },
  refused({ name, message }) {
    const kept = conversation ? "\nThe conversation opened before is still there." : "";
    $("problem").textContent = `${name} was not opened. ${capital(message)}${kept}`;
    say(answer?.said ?? READY);
  },
  opened({ conversations: found }) {
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
    const said = summary(decisions, told);
    const result = { probability: told.probability, alone: told.alone, contribution: null };
    answer = { decisions, result, settings: told.settings, said };
    timeline.paint(decisions);
    if (timeline.selected === undefined) timeline.select(0);
    else showUtterance(timeline.selected);
    count(decisions);
    say(said);
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
  $("problem").textContent = ""; // so that the same problem is told again
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
  const often = (i) => decisions.filter(({ index }) => index === i).length;
  $("legend").replaceChildren(...model.labels.map(
    (name, i) => element("li", { class: colour(i), text: `${name} ${often(i)}` }),
  ));
}

function summary(decisions, { milliseconds, settings: { modalities } }) {
  const known = conversation.label.filter((label) => label !== null).length;
  const right = known - decisions.filter(({ mistake }) => mistake).length;
  const speakers = new Set(conversation.speaker).size;
  const parts = [
    `${amount(decisions.length, "utterance")} of ${amount(speakers, "speaker")}`,
    `predicted in ${Math.max(1, Math.round(milliseconds))} ms`,
  ];
  if (known) parts.push(`${right} of ${known} as labelled in the file`);
  const blind = modalities.length ? "" : " The model sees nothing: it says what is usual.";
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
    dropping(event.dataTransfer.types.includes("Files"));
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) dropping(false);
  });
  addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser would leave the page for the file
    dropping(false);
    const [file] = event.dataTransfer.files;
    if (file && !$("choose").disabled) read(file, file.name);
  });
}

async function start() {
  try {
    model = await (await fetch("model.json")).json();
  } catch (error) {
    tasks.failed({ message: `model.json cannot be read (${error.message})` });
    return;
  }
  tellOf(model);
  detail = new Detail(model.labels, model.own_decisions);
  watchSettings(changed);
  acceptFiles();
  $("example").addEventListener("click", openExample);
  $("conversation").addEventListener("change", ({ target }) => {
    showConversation(Number(target.value));
  });
  $("download").addEventListener("click", download);
  say("Loading the model…");
  worker.postMessage({ kind: "start", model });
}

start();
