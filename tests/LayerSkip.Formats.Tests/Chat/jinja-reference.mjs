// Says where npm's @huggingface/jinja differs from the golden files, which are Python's jinja2's: npm install @huggingface/jinja@0.5.11 beside
// this file or above it, python3 jinja-reference.py, then node jinja-reference.mjs. Each case that differs gets "huggingface": what it makes, or null
// where it refuses. Where the two differ, Python is right: it is what transformers runs.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";

const here = path.dirname(fileURLToPath(import.meta.url));
const modules = process.env.JINJA_MODULES ?? here;
const { Template } = createRequire(path.join(modules, "x.js"))("@huggingface/jinja");

// strftime_now asks the clock.
const now = new Date(2026, 6, 9, 8, 5, 3);
const Clock = Date;
globalThis.Date = class extends Clock {
  constructor(...given) {
    super(...(given.length ? given : [now.getTime()]));
  }
};

const read = (name) => fs.readFileSync(path.join(here, name), "utf8");
const conversations = JSON.parse(read("conversations.json"));
const plain = conversations.filter((one) => !one.templates);
let same = 0;
const differing = [];

for (const file of ["golden/published.json", "golden/generated.json", "local/golden.json"]) {
  if (!fs.existsSync(path.join(here, file))) continue;
  const cases = JSON.parse(read(file));
  for (const one of cases) {
    const from = one.file ? conversations : plain;
    let made = null;
    try {
      made = new Template(one.template ?? read(one.file)).render(structuredClone(from[one.conversation].variables));
    } catch {}
    delete one.huggingface;
    if (made === one.expected) same++;
    else {
      one.huggingface = made;
      differing.push(one.name);
    }
  }
  fs.writeFileSync(path.join(here, file), JSON.stringify(cases, null, 1) + "\n");
}

console.log(`${same} the same, ${differing.length} differ:`);
console.log(differing.join("\n"));
