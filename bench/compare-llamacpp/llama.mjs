// llama.cpp through node-llama-cpp's prebuilt binaries, of which there is one for each kind of processor: JSON on standard output.
//     node llama.mjs FILE.gguf --tokens N --prefill N --threads N --prompt 1,2,3       one measurement
//     node llama.mjs FILE.gguf --threads N --serve     as standard input asks: decode N, rows R TIMES, prefill N
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: "string", default: "64" },
    prefill: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    prompt: { type: "string", default: "1" },
    serve: { type: "boolean", default: false },
  },
});
const [tokens, prefill, threads] = [values.tokens, values.prefill, values.threads].map(Number);
const prompt = values.prompt.split(",").map(Number);

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads });
const empty = process.memoryUsage.rss();
const started = performance.now();
const model = await llama.loadModel({ modelPath: positionals[0] });
const context = await model.createContext({
  contextSize: values.serve ? 1024 : Math.max(prefill, prompt.length + tokens) + 8,
  batchSize: values.serve ? 512 : Math.max(prefill, 64),
  threads: { ideal: threads, min: threads },
});
const sequence = context.getSequence();
const loadMs = performance.now() - started;

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
const text = (count) => Array.from({ length: count }, (_, i) => (i * 131 + 1) % 256);
const msPerToken = (times) => times.slice(1).reduce((a, b) => a + b, 0) / (times.length - 1);
const prefillMs = async (count) => (await decode(text(count), 1)).times[0];

/** One pass of some rows, all of which give a token, after 64 positions. */
async function passMs(rows, times) {
  const past = 64;
  const items = text(rows).map((id) => [id, { generateNext: { token: true, options: { temperature: 0 } } }]);
  await sequence.clearHistory();
  await sequence.controlledEvaluate(text(past));
  const taken = [];
  for (let i = 0; i <= times; i++) {
    const start = performance.now();
    await sequence.controlledEvaluate(items);
    taken.push(performance.now() - start);
    await sequence.eraseContextTokenRanges([{ start: past, end: past + rows }]);
  }
  return median(taken.slice(1));
}

async function answer(line) {
  const [what, ...numbers] = line.trim().split(/ +/);
  const [count, times] = numbers.map(Number);
  switch (what) {
    case "decode": {
      const taken = (await decode(text(4), count)).times;
      return { ms_per_token: msPerToken(taken), first_token_ms: taken[0] };
    }
    case "rows": return { pass_ms: await passMs(count, times) };
    case "prefill": return { tokens_per_second: (1000 * count) / await prefillMs(count) };
    default: return { error: "there are decode N, rows R TIMES and prefill N" };
  }
}

const tell = (object) => console.log(JSON.stringify(object));

if (values.serve) {
  tell({ load_ms: loadMs, empty_bytes: empty });
  for await (const line of createInterface({ input: process.stdin })) tell(await answer(line));
} else {
  await decode(prompt, 8);
  const { made, times } = await decode(prompt, tokens);
  const first = [];
  for (let i = 0; i < 3; i++) first.push(await prefillMs(prefill));
  tell({
    ids: made,
    ms_per_token: msPerToken(times),
    median_ms: median(times.slice(1)),
    prefill_tokens_per_second: (1000 * prefill) / median(first),
  });
}
await llama.dispose();
