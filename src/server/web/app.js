'use strict';
// The chat page. Everything it remembers is in this browser (localStorage); it talks to the server it came from and to nobody else.
const $ = (id) => document.getElementById(id);
const el = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};

const numbers = ['temperature', 'top_p', 'top_k', 'repetition_penalty', 'max_completion_tokens', 'seed'];
const storeKey = 'engine.chats';
const state = { chats: [], current: null, settings: { system: '', key: '' }, theme: '', model: '', context: 0, running: null };

// --- what is remembered ---

function load() {
  try {
    const saved = JSON.parse(localStorage.getItem(storeKey) || '{}');
    state.chats = validChats(saved.chats);
    Object.assign(state.settings, saved.settings || {});
    state.current = state.chats.find((c) => c.id === saved.current) || null;
    state.theme = ['light', 'dark'].includes(saved.theme) ? saved.theme : '';
  } catch (error) {
    say('What this browser had stored could not be read: ' + error.message);
  }
  if (state.current === null) newChat();
}

function save() {
  try {
    localStorage.setItem(storeKey, JSON.stringify({
      chats: state.chats.filter((c) => c.messages.length > 0), current: state.current && state.current.id,
      settings: state.settings, theme: state.theme,
    }));
  } catch (error) {
    say('This browser could not store the conversation: ' + error.message);
  }
}

function validChats(chats) {
  if (!Array.isArray(chats)) return [];
  return chats.filter((c) => c && Array.isArray(c.messages)).map((c) => ({
    id: String(c.id || newId()), title: String(c.title || 'Chat'), system: String(c.system || ''),
    messages: c.messages.filter((m) => m && typeof m.content === 'string' && ['user', 'assistant'].includes(m.role))
      .map((m) => ({ role: m.role, content: m.content, note: typeof m.note === 'string' ? m.note : '', tokens: Number(m.tokens) || 0,
        ...(typeof m.reasoning === 'string' && { reasoning: m.reasoning }) })),
  }));
}

// crypto.randomUUID needs https or localhost; the page may be reached through a plain address.
const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 10);

function newChat() {
  state.current = { id: newId(), title: 'New chat', system: '', messages: [] };
  state.chats.unshift(state.current);
}

// --- drawing ---

// What is said quietly is for screen readers: on the screen it shows anyway.
function say(text, quietly = false) {
  $('status').textContent = text;
  $('status').classList.toggle('quiet', quietly || text === '');
}

function drawList() {
  $('list').replaceChildren(...state.chats.map((chat) => el('li', {},
    el('button', { type: 'button', class: 'open', 'aria-current': String(chat === state.current), onclick: () => openChat(chat) }, chat.title),
    el('button', { type: 'button', class: 'delete', 'aria-label': 'Delete ' + chat.title, onclick: () => deleteChat(chat) }, '×'))));
}

function drawBody(body, message) {
  if (message.role === 'user') body.textContent = message.content;
  else body.replaceChildren(...thoughtOf(message), ...Markdown.render(message.content));
  if (message.role !== 'user') for (const pre of body.querySelectorAll('pre')) withCopyButton(pre);
}

// Open until the answer itself begins.
function thoughtOf(message) {
  if (!message.reasoning) return [];
  const thought = el('details', { class: 'thought' }, el('summary', {}, 'Thoughts'), message.reasoning);
  thought.open = message.content === '';
  return [thought];
}

function withCopyButton(pre) {
  const frame = el('div', { class: 'code' });
  pre.replaceWith(frame);
  frame.append(pre, el('button', { type: 'button', 'aria-label': 'Copy this code', onclick: () => copy(pre.textContent) }, 'Copy'));
}

function drawMessage(message, index) {
  const body = el('div', { class: 'body' });
  drawBody(body, message);
  const actions = el('div', { class: 'actions' });
  const button = (text, label, run) => actions.append(el('button', { type: 'button', 'aria-label': label, onclick: run }, text));
  button('Copy', 'Copy this message', () => copy(message.content));
  button('Edit', 'Edit this message', () => edit(index));
  if (message.role === 'assistant') button('Regenerate', 'Regenerate this answer', () => regenerate(index));
  const note = el('span', { class: 'note' }, message.note || '');
  actions.append(note);
  const article = el('article', { class: 'message ' + message.role },
    el('h2', {}, message.role === 'user' ? 'You' : 'Answer'), body, actions);
  return { article, body, note, actions };
}

function welcome() {
  return el('div', { id: 'welcome' }, el('p', {}, state.model || 'engine'),
    el('p', {}, 'Runs on this server alone. Conversations stay in this browser.'));
}

function draw() {
  drawList();
  const messages = state.current.messages;
  $('log').replaceChildren(...(messages.length > 0 ? messages.map((m, i) => drawMessage(m, i).article) : [welcome()]));
  $('log').scrollTop = $('log').scrollHeight;
  drawGauge();
}

function drawGauge() {
  const last = [...state.current.messages].reverse().find((m) => m.tokens > 0);
  const used = last ? last.tokens : 0;
  $('meter').max = state.context || 1;
  $('meter').value = used;
  $('gauge-text').textContent = state.context ? `${used} / ${state.context}` : '';
}

function setRunning(running) {
  state.running = running;
  $('send').hidden = running !== null;
  $('stop').hidden = running === null;
}

// --- talking to the server ---

function headers() {
  const all = { 'Content-Type': 'application/json' };
  if (state.settings.key) all.Authorization = 'Bearer ' + state.settings.key;
  return all;
}

async function errorOf(response) {
  let text = response.status + ' ' + response.statusText;
  try { text = (await response.json()).error.message; } catch { /* not JSON: the status must do */ }
  return new Error(response.status === 401 ? text + ' (Settings → API key)' : text);
}

async function fetchModel() {
  try {
    const response = await fetch('v1/models', { headers: headers() });
    if (!response.ok) throw await errorOf(response);
    const model = (await response.json()).data[0];
    state.model = model.id;
    state.context = model.context_length;
    $('model').textContent = model.id;
    document.title = model.id;
    if (state.running === null && state.current.messages.length === 0) draw();
    drawGauge();
    say('');
  } catch (error) {
    say(error.message);
  }
}

function requestBody() {
  const messages = state.current.messages.filter((m) => m.content !== '').map(({ role, content }) => ({ role, content }));
  if (state.settings.system) messages.unshift({ role: 'system', content: state.settings.system });
  const body = { model: state.model, messages, stream: true, stream_options: { include_usage: true } };
  for (const name of numbers) if (state.settings[name] !== undefined && state.settings[name] !== '') body[name] = Number(state.settings[name]);
  return body;
}

// Calls on_event with each "data:" payload of the stream, on_comment with each comment.
async function readEvents(response, on_event, on_comment) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split('\n\n');
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith(': ')) on_comment(event.slice(2));
      else if (event.startsWith('data: ') && event !== 'data: [DONE]') on_event(JSON.parse(event.slice(6)));
    }
  }
}

async function answer() {
  const chat = state.current;
  const message = { role: 'assistant', content: '', note: '', tokens: 0 };
  const body = JSON.stringify(requestBody());
  chat.messages.push(message);
  const drawn = drawMessage(message, chat.messages.length - 1);
  drawn.article.classList.add('running');
  $('log').append(drawn.article);
  $('log').scrollTop = $('log').scrollHeight;
  const controller = new AbortController();
  setRunning(controller);
  say('Waiting for the answer …');
  let frame = 0, n = 0, first = 0;
  // Drawn once a frame, however fast tokens come.
  const refresh = () => {
    frame = 0;
    const log = $('log');
    const at_end = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    drawBody(drawn.body, message);
    drawn.note.textContent = message.note;
    if (at_end) log.scrollTop = log.scrollHeight;
  };
  const changed = () => { if (frame === 0) frame = requestAnimationFrame(refresh); };
  try {
    const response = await fetch('v1/chat/completions', { method: 'POST', headers: headers(), body, signal: controller.signal });
    if (!response.ok) throw await errorOf(response);
    await readEvents(response, (event) => {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) {
        const t = event.usage.timings || {};
        message.tokens = event.usage.total_tokens;
        message.note = `${event.usage.completion_tokens} tokens, ${t.decode_tok_s || 0} tok/s, prompt ${event.usage.prompt_tokens}` +
          ` (${event.usage.prompt_tokens_details.cached_tokens} cached)`;
      }
      for (const choice of event.choices) {
        if (!choice.delta.content && !choice.delta.reasoning_content) continue;
        message.content += choice.delta.content || '';
        if (choice.delta.reasoning_content) message.reasoning = (message.reasoning || '') + choice.delta.reasoning_content;
        n++;
        first = first || performance.now();
        const seconds = (performance.now() - first) / 1000;
        if (seconds > 0.5) message.note = `${(n / seconds).toFixed(1)} tok/s`;
        say('');
      }
      changed();
    }, (comment) => say(comment.startsWith('queue') ? 'Waiting, place ' + comment.slice(6) : comment.startsWith('prefill') ? 'Reading the prompt, ' + comment.slice(8) : ''));
    say('Answer complete', true);
  } catch (error) {
    if (error.name === 'AbortError') {
      message.note = 'stopped';
      say('Stopped', true);
    } else {
      message.note = 'failed';
      say(error.message);
      drawn.actions.prepend(el('span', { class: 'error' }, error.message));
    }
  }
  cancelAnimationFrame(frame);
  drawn.article.classList.remove('running');
  refresh();
  setRunning(null);
  if (message.content === '' && chat.messages[chat.messages.length - 1] === message && message.note === 'failed') chat.messages.pop();
  save();
  if (chat === state.current) drawGauge();
  $('prompt').focus();
}

// --- what the user does ---

function send(event) {
  event.preventDefault();
  const text = $('prompt').value.trim();
  if (text === '' || state.running !== null) return;
  $('prompt').value = '';
  grow();
  const chat = state.current;
  if (chat.messages.length === 0) chat.title = text.slice(0, 60);
  chat.messages.push({ role: 'user', content: text, note: '', tokens: 0 });
  save();
  draw();
  answer();
}

function regenerate(index) {
  if (state.running !== null) return;
  state.current.messages.length = index;
  draw();
  answer();
}

function edit(index) {
  if (state.running !== null) return;
  const message = state.current.messages[index];
  const field = el('textarea', { 'aria-label': 'Edit the message' });
  field.value = message.content;
  const done = (apply) => {
    if (apply && message.role === 'user') {
      message.content = field.value.trim();
      state.current.messages.length = index + 1;
      save();
      draw();
      answer();
      return;
    }
    if (apply) message.content = field.value;
    save();
    draw();
  };
  const article = $('log').children[index];
  article.querySelector('.body').replaceChildren(field);
  article.querySelector('.actions').replaceChildren(
    el('button', { type: 'button', onclick: () => done(true) }, message.role === 'user' ? 'Send' : 'Save'),
    el('button', { type: 'button', onclick: () => done(false) }, 'Cancel'));
  field.focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say('Copied');
  } catch {
    say('This browser lets no page copy here');
  }
}

function openChat(chat) {
  if (state.running !== null) state.running.abort();
  state.current = chat;
  showSide(false);
  save();
  draw();
}

function deleteChat(chat) {
  if (!confirm(`Delete “${chat.title}”?`)) return;
  if (chat === state.current && state.running !== null) state.running.abort();
  state.chats = state.chats.filter((c) => c !== chat);
  if (chat === state.current) {
    if (state.chats.length > 0) state.current = state.chats[0];
    else newChat();
  }
  save();
  draw();
}

function exportChats() {
  const blob = new Blob([JSON.stringify({ chats: state.chats.filter((c) => c.messages.length > 0) }, null, 1)], { type: 'application/json' });
  const link = el('a', { href: URL.createObjectURL(blob), download: 'chats.json' });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function importChats(event) {
  const file = event.target.files[0];
  event.target.value = '';
  if (!file) return;
  try {
    const data = JSON.parse(await file.text());
    const chats = validChats(data.chat_history ? [{ title: file.name, messages: data.chat_history }] : data.chats);
    if (chats.length === 0) throw new Error('there is no conversation in it');
    for (const chat of chats) if (state.chats.some((c) => c.id === chat.id)) chat.id = newId();
    state.chats.unshift(...chats);
    state.current = chats[0];
    save();
    draw();
    say(`${chats.length} imported`);
  } catch (error) {
    say(`${file.name}: ${error.message}`);
  }
}

function openSettings() {
  $('set-system').value = state.settings.system;
  $('set-key').value = state.settings.key;
  for (const name of numbers) $('set-' + name).value = state.settings[name] ?? '';
  $('settings').returnValue = '';
  $('settings').showModal();
}

function saveSettings() {
  if ($('settings').returnValue !== 'save') return;
  state.settings.system = $('set-system').value.trim();
  state.settings.key = $('set-key').value.trim();
  for (const name of numbers) state.settings[name] = $('set-' + name).value;
  save();
  fetchModel();
}

// The browser's own wish, unless the button was pressed.
const dark = matchMedia('(prefers-color-scheme: dark)');
function showTheme() {
  document.documentElement.dataset.theme = state.theme || (dark.matches ? 'dark' : 'light');
}

function toggleTheme() {
  state.theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  showTheme();
  save();
}

function showSide(shown) {
  $('side').classList.toggle('shown', shown);
  $('open-side').setAttribute('aria-expanded', String(shown));
  if (shown) $('new').focus();
}

function grow() {
  const field = $('prompt');
  field.style.height = 'auto';
  field.style.height = field.scrollHeight + 'px';
}

$('form').addEventListener('submit', send);
$('prompt').addEventListener('input', grow);
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) send(event);
});
$('stop').addEventListener('click', () => state.running && state.running.abort());
$('new').addEventListener('click', () => { newChat(); openChat(state.current); $('prompt').focus(); });
$('export').addEventListener('click', exportChats);
$('import').addEventListener('click', () => $('import-file').click());
$('import-file').addEventListener('change', importChats);
$('open-settings').addEventListener('click', openSettings);
$('settings').addEventListener('close', saveSettings);
$('theme').addEventListener('click', toggleTheme);
$('open-side').addEventListener('click', () => showSide(true));
$('close-side').addEventListener('click', () => { showSide(false); $('open-side').focus(); });
// Beside the open list, a press closes it.
document.querySelector('main').addEventListener('click', (event) => {
  if ($('side').classList.contains('shown') && !event.target.closest('#open-side')) showSide(false);
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || $('settings').open) return;
  if ($('side').classList.contains('shown')) showSide(false);
  else if (state.running !== null) state.running.abort();
});

dark.addEventListener('change', showTheme);
load();
showTheme();
draw();
fetchModel();
$('prompt').focus();
