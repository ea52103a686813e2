// OpenAI's own client against a server: what it reads, as one JSON object. node openai.mjs ADDRESS MODEL KEY
import OpenAI from "openai";

const [address, model, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const ask = { model, prompt: "Once upon a time", max_tokens: 40, temperature: 0 };
const found = {};

const models = await client.models.list();
found.models = models.data.map(each => each.id);
found.model = (await client.models.retrieve(model)).id;

const whole = await client.completions.create(ask);
found.whole = whole.choices[0].text;
found.finish = whole.choices[0].finish_reason;
found.usage = whole.usage;

found.streamed = "";
found.chunks = 0;
for await (const chunk of await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  found.chunks += 1;
  found.streamed += chunk.choices[0]?.text ?? "";
  if (chunk.usage) found.streamedUsage = chunk.usage;
}

const stopped = await client.completions.create({ ...ask, max_tokens: 400, stream: true });
let pieces = 0;
for await (const _ of stopped) {
  pieces += 1;
  if (pieces === 2) break; // which aborts the request
}
found.broken = pieces;

const refused = async work => {
  try {
    await work();
    return null;
  } catch (error) {
    return { type: error.constructor.name, status: error.status, code: error.code, param: error.param, message: error.message };
  }
};
found.badOption = await refused(() => client.completions.create({ ...ask, temperature: -1 }));
found.badModel = await refused(() => client.completions.create({ ...ask, model: "gpt-9" }));
found.badKey = await refused(() => new OpenAI({ baseURL: `${address}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list());

console.log(JSON.stringify(found));
