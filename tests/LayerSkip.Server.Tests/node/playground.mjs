// Drives the playground in a browser, as a person would: what is seen, as one JSON object; pictures go to FOLDER.
// node playground.mjs ADDRESS FOLDER
import { chromium } from "playwright-core";
import { join } from "node:path";

const [address, folder] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const found = { faults: [], requests: [] };

const open = async (colorScheme, width, height) => {
  const page = await browser.newPage({ colorScheme, viewport: { width, height } });
  page.on("pageerror", error => found.faults.push(String(error)));
  page.on("console", message => message.type() === "error" && found.faults.push(message.text()));
  page.on("request", request => found.requests.push({ url: request.url(), body: request.postData() }));
  await page.goto(address);
  await page.waitForFunction(() => document.getElementById("facts").textContent.includes("layers"));
  return page;
};

const kinds = page => page.$$eval("#text .token", tokens => tokens.map(token => token.className.replace("token ", "")));
const textOf = page => page.$$eval("#text .token", tokens => tokens.map(token => token.textContent).join(""));
const finished = page => page.waitForFunction(() => document.getElementById("write").disabled === false && document.getElementById("said").textContent.includes("tokens after"), null, { timeout: 60000 });
const slide = async (page, id, value) => page.$eval(`#${id}`, (slider, value) => { slider.value = value; slider.dispatchEvent(new Event("input", { bubbles: true })); }, value);
const picture = (page, name) => page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });

try {
  const page = await open("light", 1280, 860);
  found.facts = await page.textContent("#facts");

  // Type, and watch tokens come.
  await page.click("#prompt");
  await page.keyboard.type("The dog and the <b>cat</b>");
  // The page itself looks each time that it changes: a look from here may come when all is there.
  await page.evaluate(() => {
    const text = document.getElementById("text");
    window.counts = [];
    new MutationObserver(() => window.counts.push(text.querySelectorAll(".token").length)).observe(text, { childList: true, subtree: true });
  });
  await page.keyboard.press("Enter");
  await page.waitForSelector("#text .token");
  await finished(page);
  const counts = await page.evaluate(() => window.counts);
  counts.push((await kinds(page)).length);
  found.counts = counts;
  found.kinds = [...new Set(await kinds(page))];
  found.text = await textOf(page);
  found.given = await page.textContent("#text .given");
  found.markup = await page.$$eval("#text b", all => all.length);
  found.title = await page.getAttribute("#text .token.drafted", "title");
  found.figures = await page.$$eval("#figures dd", all => all.map(each => each.textContent));
  found.legend = await page.$$eval("#legend b", all => all.map(each => Number(each.textContent)));
  await picture(page, "light");

  // Move sliders: what is asked for changes, and the text does not.
  await slide(page, "exit", "5");
  await slide(page, "draft", "9");
  await page.fill("#prompt", "The dog and the <b>cat</b>");
  await page.click("#write");
  await finished(page);
  found.again = await textOf(page);
  const asked = found.requests.filter(request => request.body).map(request => JSON.parse(request.body)).at(-1);
  found.asked = { exit_layer: asked.exit_layer, draft_length: asked.draft_length };

  // Stop it on its way.
  await slide(page, "limit", "480");
  await page.selectOption("#way", "autoregressive");
  await page.fill("#prompt", "Once upon a time there was a little");
  await page.evaluate(() => {
    const text = document.getElementById("text");
    const stop = () => text.querySelector(".token") && document.getElementById("stop").click();
    new MutationObserver(stop).observe(text, { childList: true, subtree: true });
    document.getElementById("write").click();
  });
  await page.waitForFunction(() => document.getElementById("write").disabled === false);
  found.said = await page.textContent("#said");
  found.stopped = (await kinds(page)).length;

  const dark = await open("dark", 1280, 860);
  await dark.selectOption("#way", "auto");
  await dark.fill("#prompt", "Once upon a time, there was a little girl. Once upon a time, there was");
  await dark.click("#write");
  await finished(dark);
  await picture(dark, "dark");

  const phone = await open("light", 390, 844);
  await phone.fill("#prompt", "Tom had a red ball. He liked");
  await phone.click("#write");
  await finished(phone);
  found.overflow = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  await picture(phone, "phone");
} finally {
  await browser.close();
}

found.hosts = [...new Set(found.requests.map(request => new URL(request.url).origin).filter(origin => origin !== "null"))];
delete found.requests;
console.log(JSON.stringify(found));
