// Opens the playground in windows of many sizes, and holds a conversation: what is seen, as one JSON object; pictures go to FOLDER.
// node chat.mjs ADDRESS FOLDER KEY
import { chromium } from "playwright-core";
import { join } from "node:path";

const [address, folder, key] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const found = { faults: [], opened: [], talks: [] };

const open = async (colorScheme, width, height) => {
  const page = await browser.newPage({ colorScheme, viewport: { width, height } });
  page.on("pageerror", error => found.faults.push(String(error)));
  await page.goto(address);
  await page.waitForFunction(() => document.getElementById("facts").textContent !== "…");
  return page;
};

const bottom = (page, id) => page.$eval(`#${id}`, element => Math.ceil(element.getBoundingClientRect().bottom));
const picture = (page, name) => page.screenshot({ path: join(folder, `${name}.png`) });
const turns = page => page.$$eval("#text .turn", all => all.map(turn => turn.className.replace("turn ", "")));
const written = page => page.waitForFunction(() => document.getElementById("said").textContent.includes("tokens after"), null, { timeout: 60000 });

// How far the text is from its end, and whether it is longer than its box.
const place = page => page.$eval("#text", box => ({ left: Math.round(box.scrollHeight - box.clientHeight - box.scrollTop), isLonger: box.scrollHeight > box.clientHeight }));

const talk = async (name, colorScheme, width, height) => {
  const page = await open(colorScheme, width, height);
  const talked = { name, locked: await page.textContent("#facts"), places: [] };
  await page.check("input[value=chat]", { force: true });

  // Without a key nothing is lost, and the page says where one goes.
  await page.fill("#prompt", "Tell me of a dog.");
  await page.click("#write");
  await page.waitForFunction(() => document.getElementById("said").classList.contains("bad"));
  talked.refused = await page.textContent("#said");
  talked.kept = await page.inputValue("#prompt");
  talked.focus = await page.evaluate(() => document.activeElement.id);
  await page.fill("#key", key);
  await page.dispatchEvent("#key", "change");
  await page.waitForFunction(() => document.getElementById("facts").textContent.includes("layers"));

  // An empty box says nothing.
  let requests = 0;
  page.on("request", request => { if (request.method() === "POST") requests += 1; });
  await page.fill("#prompt", " ");
  await page.click("#write");
  await page.press("#prompt", "Enter");
  talked.empty = { requests, turns: await turns(page) };

  for (const said of ["Tell me of a dog.", "And then?", "Who was there?"]) {
    await page.fill("#prompt", said);
    await page.click("#write");
    await written(page);
    talked.places.push(await place(page));
    await page.evaluate(() => { document.getElementById("said").textContent = ""; });
  }
  talked.turns = await turns(page);
  await picture(page, `chat-${name}`);
  found.talks.push(talked);
};

try {
  for (const [name, scheme, width, height] of [["wide", "dark", 1440, 900], ["laptop", "light", 1366, 768], ["small", "dark", 1280, 800], ["narrow", "light", 375, 740]]) {
    const page = await open(scheme, width, height);
    found.opened.push({ name, height, prompt: await bottom(page, "prompt"), write: await bottom(page, "write"), focus: await page.evaluate(() => document.activeElement.id) });
    await picture(page, `opened-${name}`);
  }

  await talk("desktop", "light", 1280, 800);
  await talk("phone", "dark", 375, 740);
} finally {
  await browser.close();
}

console.log(JSON.stringify(found));
