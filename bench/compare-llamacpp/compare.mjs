// LayerSkip.FSharp and llama.cpp on the same weights, in turn: medians and spread in one table.
//     node bench/compare-llamacpp/compare.mjs --model DIR_OR_GGUF [--dtype f16] [--rounds 5] [--tokens 64]
//         [--exit-layer 8 --draft-length 4] [--identity] [--threads 2] [--json]
// It installs llama.cpp (npm's node-llama-cpp, prebuilt) beside itself, builds the command, and exports the model
// to a GGUF file of that dtype in a temporary folder, which both then run. --identity makes the layers after the
// exit add nothing for our own runs: every draft is accepted, and the cost stays.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../..");
const { values } = parseArgs({
  options: {
    model: { type: "string" },
    dtype: { type: "string", default: "f16" },
    rounds: { type: "string", default: "5" },
    tokens: { type: "string", default: "64" },
    threads: { type: "string", default: "2" },
    "exit-layer": { type: "string" },
    "draft-length": { type: "string" },
    identity: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
if (!values.model) {
  console.error("compare: --model is missing; give a Hugging Face folder or a .gguf file");
  process.exit(2);
}

const run = (file, args, options = {}) =>
  execFileSync(file, args, { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "inherit"], ...options });
const quiet = { stdio: ["ignore", "ignore", "inherit"] };

if (!existsSync(join(here, "node_modules", "node-llama-cpp"))) {
  console.error("installing llama.cpp (once) ...");
  run("npm", ["install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"], { cwd: here, ...quiet });
}
const dll = join(root, "src/LayerSkip.Cli/bin/Release/net10.0/LayerSkip.Cli.dll");
if (!existsSync(dll)) run("dotnet", ["build", join(root, "src/LayerSkip.Cli"), "-c", "Release", "-v", "q"], quiet);
const layerskip = (...args) => JSON.parse(run("dotnet", [dll, ...args, "--json", "--threads", values.threads],
  { stdio: ["ignore", "pipe", "ignore"] }));

const folder = mkdtempSync(join(tmpdir(), "layerskip-compare-"));
const file = join(folder, "model.gguf");
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const spread = (list) => `${median(list).toFixed(2)} (${Math.min(...list).toFixed(2)} to ${Math.max(...list).toFixed(2)})`;

try {
  layerskip("export", "--model", values.model, "--format", "gguf", "--dtype", values.dtype, "--output", file);
  const prompt = layerskip("generate", "--model", file, "--prompt", "Once upon a time", "--max-new-tokens", "1").prompt_ids;
  const context = layerskip("info", "--model", file).model.context;
  const prefill = Math.min(512, context - 1);
  const bench = ["bench", "--model", file, "--runs", "1", "--max-new-tokens", values.tokens];
  if (values["exit-layer"]) bench.push("--exit-layer", values["exit-layer"]);
  if (values["draft-length"]) bench.push("--draft-length", values["draft-length"]);
  if (values.identity) bench.push("--identity-after", values["exit-layer"]);

  const ours = [];
  const theirs = [];
  for (let round = 0; round < Number(values.rounds); round++) {
    theirs.push(JSON.parse(run("node", [join(here, "llama.mjs"), file, "--tokens", values.tokens, "--prefill",
      String(prefill), "--threads", values.threads, "--prompt", prompt.join(",")])));
    ours.push(layerskip(...bench));
    console.error(`round ${round + 1} of ${values.rounds}`);
  }

  const greedy = layerskip("generate", "--model", file, "--prompt-ids", prompt.join(","), "--ignore-eos",
    "--max-new-tokens", values.tokens).token_ids;
  const llamaIds = theirs[0].ids;
  const differs = greedy.findIndex((id, i) => id !== llamaIds[i]);
  const plain = ours.map((r) => r.autoregressive.ms_per_token.median);
  const fast = ours.map((r) => r.self_speculative.ms_per_token.median);
  const llama = theirs.map((r) => r.ms_per_token);
  const ourPrefill = ours.map((r) => r.prefill.tokens_per_second);
  const theirPrefill = theirs.map((r) => r.prefill_tokens_per_second);
  const result = {
    model: values.model, dtype: values.dtype, cpu: ours[0].cpu, threads: Number(values.threads), rounds: ours.length,
    read_bandwidth_gb_s: median(ours.map((r) => r.read_bandwidth_gb_s)),
    llamacpp_ms_per_token: median(llama), autoregressive_ms_per_token: median(plain),
    self_speculative_ms_per_token: median(fast),
    autoregressive_speed: median(llama) / median(plain), self_speculative_time: median(fast) / median(llama),
    ratio: median(ours.map((r) => r.ratio)), verify_rows_ratio: median(ours.map((r) => r.verify_rows_ratio)),
    draft_acceptance_rate: ours[0].self_speculative.draft_acceptance_rate,
    prefill_speed: median(ourPrefill) / median(theirPrefill),
    greedy_tokens_equal: differs < 0 ? greedy.length : differs, greedy_tokens: greedy.length,
  };
  if (values.json) console.log(JSON.stringify(result));
  else {
    console.log(`${values.model} in ${values.dtype} on ${result.cpu}, ${values.threads} threads, ${ours.length} rounds`);
    console.log(`| | ms a token, median (least to most) | prefill of ${prefill}, tokens/s |`);
    console.log("|---|---|---|");
    console.log(`| llama.cpp | ${spread(llama)} | ${spread(theirPrefill)} |`);
    console.log(`| LayerSkip.FSharp, autoregressive | ${spread(plain)} | ${spread(ourPrefill)} |`);
    console.log(`| LayerSkip.FSharp, self-speculative | ${spread(fast)} | |`);
    console.log(`plain decoding at ${result.autoregressive_speed.toFixed(2)} of llama.cpp's speed, prefill at ` +
      `${result.prefill_speed.toFixed(2)}; self-speculative takes ${result.self_speculative_time.toFixed(2)} of llama.cpp's time ` +
      `(${(100 * result.draft_acceptance_rate).toFixed(1)} % accepted); five rows cost ${result.verify_rows_ratio.toFixed(2)} of one`);
    console.log(`greedy tokens equal: ${result.greedy_tokens_equal} of ${result.greedy_tokens}`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
