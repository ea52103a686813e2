// One measurement of llama.cpp, through node-llama-cpp's prebuilt binary: JSON on standard output.
//     node llama.mjs FILE.gguf --tokens N --prefill N --threads N --prompt 1,2,3
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: "string", default: "64" },
    prefill: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    prompt: { type: "string", default: "1" },
  },
});
const [tokens, prefill, threads] = [values.tokens, values.prefill, values.threads].map(Number);
const prompt = values.prompt.split(",").map(Number);

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads });
const model = await llama.loadModel({ modelPath: positionals[0] });
const context = await model.createContext({
  contextSize: Math.max(prefill, prompt.length + tokens) + 8,
  batchSize: Math.max(prefill, 64),
  threads: { ideal: threads, min: threads },
});
const sequence = context.getSequence();

/** Greedy tokens after a prompt, and the time before each. */
async function decode(ids, count) {
  await sequence.clearHistory();
  const made = [];
  const times = [];
  let last = performance.now();
  for await (const id of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    const now = performance.now();
    times.push(now - last);
    last = now;
    made.push(id);
    if (made.length >= count) break;
  }
  return { made, times };
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
await decode(prompt, 8);
const { made, times } = await decode(prompt, tokens);
const long = Array.from({ length: prefill }, (_, i) => (i * 131 + 1) % 256);
const first = [];
for (let i = 0; i < 3; i++) first.push((await decode(long, 1)).times[0]);
console.log(JSON.stringify({
  ids: made,
  ms_per_token: times.slice(1).reduce((a, b) => a + b, 0) / (times.length - 1),
  median_ms: median(times.slice(1)),
  prefill_tokens_per_second: (1000 * prefill) / median(first),
}));
await llama.dispose();
