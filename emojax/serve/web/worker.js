// Reads files and runs the model, so that the page never waits.
//
// Told  {kind: "start", model}                          model.json's content
//       {kind: "read", file, name}                      a Blob
//       {kind: "predict", ticket, index, settings}      of the file read last; the latest wins
// Tells {kind: "ready"}, {kind: "failed", message}, {kind: "refused", name, message},
//       {kind: "opened", name, conversations}           without features
//       {kind: "predicted", ticket, settings, probability [L, C], alone [L, M, C] or null,
//         milliseconds}
//       {kind: "explained", ticket, contribution [L, M]}

import { MODALITIES } from "./check.js";
import { inputsOf } from "./inputs.js";
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { readConversations } from "./reading.js";

ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1; // more would need headers that plain web servers do not send
ort.env.wasm.wasmPaths = {
  wasm: new URL("onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

const SMALLEST = 1e-38; // keeps the logarithm of a probability that underflowed finite

let model;
let session;
let conversations = [];
let wanted = null;
let busy = false;

const tasks = {
  async start(told) {
    model = told.model;
    const url = new URL("model.onnx", import.meta.url).href;
    const options = {
      executionProviders: ["wasm"],
      logSeverityLevel: 3, // errors alone
      // int8 weights become floats as the file is loaded, not at every call.
      extra: { session: { disable_quant_qdq: "1" } },
    };
    session = await ort.InferenceSession.create(url, options);
    postMessage({ kind: "ready" });
    await work();
  },

  async read({ file, name }) {
    try {
      conversations = await readConversations(file, model);
    } catch (error) {
      postMessage({ kind: "refused", name, message: error.message });
      return;
    }
    const shown = conversations.map(({ features, ...rest }) => rest);
    postMessage({ kind: "opened", name, conversations: shown });
  },

  async predict(told) {
    wanted = told;
    await work();
  },
};

onmessage = async ({ data }) => {
  try {
    await tasks[data.kind](data);
  } catch (error) {
    postMessage({ kind: "failed", message: String(error?.message ?? error) });
  }
};

/** Serve the latest request, until there is none. */
async function work() {
  if (busy || !session) return;
  busy = true;
  try {
    while (wanted) {
      const told = wanted;
      wanted = null;
      const conversation = conversations[told.index];
      if (conversation) await predict(told, conversation); // else it was of the file before
    }
  } finally {
    busy = false;
  }
}

async function predict({ ticket, settings }, conversation) {
  const began = performance.now();
  const whole = await look(conversation, settings);
  const milliseconds = performance.now() - began;
  postMessage({ kind: "predicted", ticket, settings, ...whole, milliseconds });

  const classes = model.labels.length;
  const length = conversation.speaker.length;
  const contribution = new Float32Array(length * MODALITIES.length);
  for (const [column, hidden] of MODALITIES.entries()) {
    await breath();
    if (wanted) return;
    if (!seen(conversation, column, settings)) continue;
    const modalities = settings.modalities.filter((m) => m !== hidden);
    const without = await look(conversation, { ...settings, modalities });
    for (let i = 0; i < length; i++) {
      const row = i * classes;
      const said = row + argmax(whole.probability.subarray(row, row + classes));
      const log = (p) => Math.log(Math.max(p[said], SMALLEST));
      const fall = log(whole.probability) - log(without.probability);
      contribution[i * MODALITIES.length + column] = fall;
    }
  }
  postMessage({ kind: "explained", ticket, contribution });
}

/** One run of the model: probability [L, C], and [L, M, C] of each modality by itself, if told. */
async function look(conversation, settings) {
  const length = conversation.speaker.length;
  const given = inputsOf(conversation, model, settings);
  const feeds = {
    present: new ort.Tensor("bool", given.present, [1, length, MODALITIES.length]),
    speaker: new ort.Tensor("int32", given.speaker, [1, length]),
    segment: new ort.Tensor("int32", given.segment, [1, length]),
  };
  for (const m of MODALITIES) {
    feeds[m] = new ort.Tensor("float32", given[m], [1, length, model.widths[m]]);
  }
  // A model that never looks at an input has none of that name.
  for (const name of Object.keys(feeds)) {
    if (!session.inputNames.includes(name)) delete feeds[name];
  }
  const found = await session.run(feeds);
  const { probability, modality_probability: alone } = found;
  return {
    probability: Float32Array.from(probability.data),
    alone: alone ? Float32Array.from(alone.data) : null,
  };
}

/** Whether there is anything of a modality that hiding it would take away. */
function seen({ present }, column, { modalities }) {
  return (
    modalities.includes(MODALITIES[column]) && present.some((there, i) => there && i % 3 === column)
  );
}

function argmax(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

/** Lets messages in: a run of the model keeps the worker from hearing them. */
function breath() {
  return new Promise((resume) => setTimeout(resume));
}
