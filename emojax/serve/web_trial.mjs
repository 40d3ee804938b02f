// Runs a model in ONNX Runtime Web outside of a browser: node web_trial.mjs RUNTIME_FOLDER MODEL
//
// A line in, {input: {type, dims, data}}, is answered by a line, {dims, data} of the probability;
// data are the bytes of the array in base64. The options are those of web/worker.js.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [runtime, file] = process.argv.slice(2);
const ort = await import(pathToFileURL(resolve(runtime, "ort.wasm.bundle.min.mjs")).href);
ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(join(runtime, "ort-wasm-simd-threaded.wasm"));

const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(file)), {
  executionProviders: ["wasm"],
  logSeverityLevel: 3,
  extra: { session: { disable_quant_qdq: "1" } },
});

const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

for await (const line of createInterface({ input: process.stdin })) {
  const feeds = {};
  for (const [name, { type, dims, data }] of Object.entries(JSON.parse(line))) {
    if (!session.inputNames.includes(name)) continue; // the model never looks at it
    const bytes = Uint8Array.from(Buffer.from(data, "base64"));
    feeds[name] = new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
  }
  const { probability } = await session.run(feeds);
  const { buffer, byteOffset, byteLength } = probability.data;
  const data = Buffer.from(buffer, byteOffset, byteLength).toString("base64");
  console.log(JSON.stringify({ dims: probability.dims, data }));
}
