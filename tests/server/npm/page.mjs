// The chat page in a real browser: page.mjs URL CHROMIUM FOLDER. Screenshots go to FOLDER. Prints `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [url, executablePath, folder] = process.argv.slice(2);
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
const context = await browser.newContext({ viewport: { width: 1100, height: 750 }, acceptDownloads: true });
const page = await context.newPage();
const complaints = [];
page.on('console', (m) => { if (m.type() === 'error' || m.type() === 'warning') complaints.push(m.text()); });
page.on('pageerror', (e) => complaints.push(String(e)));
page.on('request', (r) => { if (!r.url().startsWith(url) && !/^(data|blob):/.test(r.url())) complaints.push('asked another host: ' + r.url()); });
page.on('dialog', (d) => d.accept());

const answers = () => page.locator('.message.assistant .body');
const idle = () => page.locator('#send').waitFor();
async function send(text) {
  await page.fill('#prompt', text);
  await page.press('#prompt', 'Enter');
}

const tests = {
  async 'send and stream'() {
    await page.goto(url + '/');
    await page.waitForFunction(() => document.querySelector('#model').textContent === 'alphabet');
    await send('hello');
    await page.waitForFunction((a) => document.querySelector('.message.assistant .body')?.textContent === a, alphabet);
    await idle();
    assert.match(await page.locator('.message.assistant .note').textContent(), /27 tokens, [\d.]+ tok\/s/);
    assert.match(await page.locator('#gauge-text').textContent(), /^[1-9]\d* \/ 4096$/);
    await page.screenshot({ path: folder + '/desktop.png' });
  },
  async 'reload keeps the conversation'() {
    await page.reload();
    assert.equal(await answers().first().textContent(), alphabet);
    assert.equal(await page.locator('#list .open').first().textContent(), 'hello');
  },
  async 'regenerate'() {
    await page.getByRole('button', { name: 'Regenerate this answer' }).click();
    await page.waitForFunction((a) => document.querySelector('.message.assistant .body')?.textContent === a, alphabet);
    await idle();
    assert.equal(await answers().count(), 1);
  },
  async 'settings'() {
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.fill('#set-max_completion_tokens', '5');
    await page.fill('#set-system', 'be brief');
    await page.screenshot({ path: folder + '/settings.png' });
    await page.getByRole('button', { name: 'Save' }).click();
    const [request] = await Promise.all([page.waitForRequest((r) => r.url().endsWith('/v1/chat/completions')), send('again')]);
    assert.equal(request.postDataJSON().messages[0].content, 'be brief');
    await idle();
    assert.equal(await answers().last().textContent(), 'ABCDE');
  },
  async 'edit'() {
    await page.getByRole('button', { name: 'Edit this message' }).first().click();
    await page.getByRole('textbox', { name: 'Edit the message' }).fill('another question');
    await page.locator('.message .actions').getByRole('button', { name: 'Send' }).click();
    await idle();
    await page.waitForFunction(() => document.querySelectorAll('.message').length === 2);
    assert.equal(await page.locator('.message.user .body').textContent(), 'another question');
  },
  async 'stop'() {
    // Answers that end by themselves are over too soon: this one is held up on its way.
    await page.route('**/v1/chat/completions', async (route) => {
      await new Promise((done) => setTimeout(done, 3000));
      await route.continue().catch(() => {});
    });
    await send('stop me');
    await page.getByRole('button', { name: 'Stop' }).click();
    await idle();
    assert.equal(await page.locator('.message.assistant .note').last().textContent(), 'stopped');
    await page.unroute('**/v1/chat/completions');
  },
  async 'errors are shown and nothing is lost'() {
    await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 503, contentType: 'application/json', body: '{"error":{"message":"too many requests are waiting"}}' }));
    await send('in vain');
    await idle();
    assert.match(await page.locator('#status').textContent(), /too many requests/);
    await page.unroute('**/v1/chat/completions');
    assert.equal(await page.locator('.message.user .body').last().textContent(), 'in vain');
    complaints.splice(0, complaints.length, ...complaints.filter((c) => !c.includes('503')));  // the browser notes every failed request
  },
  async 'Markdown, and no HTML'() {
    const text = '# Title\n\nSome **bold**, *soft*, `code` and [a link](https://example.org) [bad](javascript:alert(1)).\n\n- one\n- two\n  1. inner\n\n' +
      '| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nlet x = "<b>";\n```\n\n> quoted\n\n<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>';
    const events = [{ choices: [{ index: 0, delta: { content: text } }] }].map((e) => 'data: ' + JSON.stringify(e) + '\n\n').join('') + 'data: [DONE]\n\n';
    await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 200, contentType: 'text/event-stream', body: events }));
    await page.getByRole('button', { name: 'New chat' }).first().click();
    await send('show me Markdown');
    await idle();
    await page.unroute('**/v1/chat/completions');
    const body = answers().last();
    for (const [selector, expected] of [['h3', 'Title'], ['strong', 'bold'], ['em', 'soft'], ['p > code', 'code'], ['a', 'a link'], ['ul > li ol li', 'inner'], ['td >> nth=1', '2'], ['pre code', 'let x = "<b>";'], ['blockquote p', 'quoted']]) {
      assert.equal(await body.locator(selector).first().textContent(), expected, selector);
    }
    assert.equal(await body.locator('a').count(), 1);
    assert.equal(await body.locator('img, script').count(), 0);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    await page.screenshot({ path: folder + '/markdown.png' });
  },
  async 'thoughts, apart from the answer'() {
    const deltas = [{ role: 'assistant', content: '' }, { reasoning_content: 'Hm **2**' }, { reasoning_content: ' + 2.' }, { content: 'It is 4.' }];
    const events = deltas.map((delta) => 'data: ' + JSON.stringify({ choices: [{ index: 0, delta }] }) + '\n\n').join('') + 'data: [DONE]\n\n';
    await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 200, contentType: 'text/event-stream', body: events }));
    await page.getByRole('button', { name: 'New chat' }).first().click();
    await send('what is 2 + 2');
    await idle();
    await page.unroute('**/v1/chat/completions');
    const thought = answers().last().locator('details');
    assert.equal(await thought.textContent(), 'ThoughtsHm **2** + 2.');
    assert.equal(await thought.evaluate((e) => e.open), false);
    assert.ok((await answers().last().locator('p').textContent()).includes('It is 4.'));
  },
  async 'export and import'() {
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Export' }).click()]);
    const path = folder + '/chats.json';
    await download.saveAs(path);
    const saved = JSON.parse(readFileSync(path, 'utf8'));
    assert.ok(saved.chats.some((c) => c.messages.some((m) => m.content === 'show me Markdown')));
    const before = await page.locator('#list li').count();
    await page.setInputFiles('#import-file', path);
    await page.waitForFunction((n) => document.querySelectorAll('#list li').length === n, before + saved.chats.length);
    writeFileSync(path, '{"chats": 5}');
    await page.setInputFiles('#import-file', path);
    await page.waitForFunction(() => document.querySelector('#status').textContent.includes('no conversation'));
  },
  async 'delete'() {
    const before = await page.locator('#list li').count();
    await page.locator('#list .delete').first().click();
    await page.waitForFunction((n) => document.querySelectorAll('#list li').length === n, before - 1);
  },
  async 'dark and light'() {
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const first = await back();
    await page.getByRole('button', { name: 'Light or dark' }).click();
    assert.notEqual(await back(), first);
    await page.screenshot({ path: folder + '/dark.png' });
    await page.reload();
    assert.notEqual(await back(), first);
  },
  async 'keyboard alone'() {
    await page.getByRole('button', { name: 'New chat' }).first().click();
    await page.keyboard.type('typed');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('two lines');
    await page.keyboard.press('Enter');
    await idle();
    assert.equal(await page.locator('.message.user .body').last().textContent(), 'typed\ntwo lines');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, textarea, meter')].filter((e) =>
      e.offsetParent && !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length))).map((e) => e.outerHTML));
    assert.deepEqual(nameless, []);
  },
  async 'a phone'() {
    await page.setViewportSize({ width: 360, height: 640 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 360, 'it is ' + wide + ' pixels wide');
    await page.screenshot({ path: folder + '/phone.png' });
    await page.getByRole('button', { name: 'Conversations' }).first().click();
    await page.waitForTimeout(300);
    await page.screenshot({ path: folder + '/phone-list.png' });
    await page.locator('#list .open').nth(1).click();
    assert.ok(!(await page.locator('#side').isVisible()) || await page.evaluate(() => getComputedStyle(document.querySelector('#side')).visibility === 'hidden' || !document.querySelector('#side').classList.contains('shown')));
    await send('from a phone');
    await idle();
  },
  async 'no complaints in the console, no other host asked'() {
    assert.deepEqual(complaints, []);
  },
};

let passed = 0, failed = 0;
for (const [name, run] of Object.entries(tests)) {
  try {
    await run();
    passed++;
    console.log('ok    ' + name);
  } catch (error) {
    failed++;
    console.log('FAIL  ' + name + '\n' + (error.stack || error));
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
