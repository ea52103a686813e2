"use strict";
// Text that the model or a person wrote reaches the page by textContent alone.
const the = id => document.getElementById(id);
const made = (name, kind, text) => {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
};

const kinds = {
  drafted: "drafted by the early layers, and kept",
  lookup: "what the text said before, and kept",
  corrected: "the whole model's, in place of a refused draft",
  bonus: "the whole model's, after a draft kept entirely",
  plain: "the whole model's, without a draft",
};
const kindOf = origin => (origin === "prefill" ? "plain" : origin);
const storyOf = origin => (origin === "prefill" ? "the first, from the pass over the prompt" : kinds[kindOf(origin)]);

const state = { model: null, chat: false, messages: [], running: null, counts: {}, rounds: 0, drafted: 0, kept: 0, tokens: 0, began: 0, firstAt: 0, lastAt: 0 };

const say = (text, isBad) => {
  the("said").textContent = text;
  the("said").classList.toggle("bad", Boolean(isBad));
};

// What is told while a text is written.
const rows = {};
for (const kind of Object.keys(kinds)) {
  const row = made("li");
  const mark = made("span", `token ${kind}`, kind);
  const count = made("b", "", "0");
  row.append(mark, made("span", "", kinds[kind]), count);
  the("legend").append(row);
  const part = made("div", kind);
  part.hidden = true;
  the("bar").append(part);
  rows[kind] = { count, part };
}

const fixed = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const show = () => {
  for (const kind of Object.keys(kinds)) {
    const count = state.counts[kind] || 0;
    rows[kind].count.textContent = fixed(count, 0);
    rows[kind].part.hidden = count === 0;
    rows[kind].part.style.flexGrow = String(count);
  }
  const seconds = (state.lastAt - state.firstAt) / 1000;
  the("speed").textContent = state.tokens > 1 && seconds > 0 ? fixed((state.tokens - 1) / seconds, 0) : "–";
  the("kept").textContent = state.drafted ? `${fixed((100 * state.kept) / state.drafted, 0)} %` : "–";
  the("round").textContent = state.rounds ? fixed(1 + state.kept / state.rounds, 2) : "–";
  the("first").textContent = state.firstAt ? `${fixed(state.firstAt - state.began, 0)} ms` : "–";
  const told = Object.keys(kinds).filter(kind => state.counts[kind]).map(kind => `${state.counts[kind]} ${kind}`);
  the("bar").setAttribute("aria-label", told.length ? `Where the tokens come from: ${told.join(", ")}` : "No tokens yet");
};

const reset = () => Object.assign(state, { counts: {}, rounds: 0, drafted: 0, kept: 0, tokens: 0, began: performance.now(), firstAt: 0, lastAt: 0 });

const add = (place, choice) => {
  const now = performance.now();
  const pieces = document.createDocumentFragment();
  for (const token of choice.tokens || []) {
    const kind = kindOf(token.origin);
    state.counts[kind] = (state.counts[kind] || 0) + 1;
    state.tokens += 1;
    if (!state.firstAt) state.firstAt = now;
    state.lastAt = now;
    // Part of a character, or of what may be a stop text: it shows with the token that completes it.
    if (token.text === "") continue;
    const piece = made("span", `token ${kind}`, token.text);
    piece.title = `${kind}: ${storyOf(token.origin)} (id ${token.id})`;
    pieces.append(piece);
  }
  for (const [drafted, kept] of choice.rounds || []) {
    if (drafted === 0) continue;
    state.rounds += 1;
    state.drafted += drafted;
    state.kept += kept;
  }
  const box = the("text");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  place.append(pieces);
  if (isAtEnd) box.scrollTop = box.scrollHeight;
  show();
};

// What the controls ask for, in the request's words.
const drafting = () => {
  const exit = Number(the("exit").value), draft = Number(the("draft").value);
  switch (the("way").value) {
    case "auto": return { policy: "auto" };
    case "lookup": return { policy: "static", drafter: "lookup" };
    case "autoregressive": return { strategy: "autoregressive" };
    case "early-exit": return { strategy: "early-exit", exit_layer: exit };
    default: return { strategy: "self-speculative", exit_layer: exit, draft_length: draft };
  }
};

const headers = () => {
  const key = the("key").value.trim();
  return key ? { "content-type": "application/json", authorization: `Bearer ${key}` } : { "content-type": "application/json" };
};

// In a browser a key is typed, not sent.
const wantsKey = "this server asks for an API key: type it into the field “API key”, under “How it is written”";

const explain = async response => {
  if (response.status === 401) return the("key").value ? "this is not the server's API key" : wantsKey;
  try {
    const { error } = await response.json();
    return error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
};

// Server-sent events, as parsed objects.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const line = held.slice(0, end);
      held = held.slice(end + 2);
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

const busy = isBusy => {
  the("write").disabled = isBusy;
  the("stop").disabled = !isBusy;
  the("text").setAttribute("aria-busy", String(isBusy));
};

const write = async () => {
  // A story may begin as the box suggests; nobody is made to say it.
  const prompt = the("prompt").value || (state.chat ? "" : the("prompt").placeholder);
  if (state.chat && !prompt.trim()) return the("prompt").focus();
  const ask = { model: state.model, stream: true, stream_options: { include_usage: true }, origins: true, temperature: Number(the("temperature").value), max_tokens: Number(the("limit").value), ...drafting() };
  the("hint")?.remove();
  let place = the("text");
  // Who clears meanwhile begins another conversation.
  const messages = state.messages, turn = made("div", "turn user");

  if (state.chat) {
    messages.push({ role: "user", content: prompt });
    turn.append(made("small", "", "you"), made("span", "", prompt));
    place = made("div", "turn assistant");
    place.append(made("small", "", state.model));
    the("text").append(turn, place);
    the("prompt").value = "";
    ask.messages = messages;
  } else {
    the("text").replaceChildren(made("span", "given", prompt));
    ask.prompt = prompt;
  }
  // Who asks wants to see the answer; it is followed for as long as nobody scrolls away.
  the("text").scrollTop = the("text").scrollHeight;

  reset();
  show();
  busy(true);
  say("writing …");
  state.running = new AbortController();
  let written = "", ended = "", usage = null;

  try {
    const response = await fetch(ask.messages ? "/v1/chat/completions" : "/v1/completions", { method: "POST", headers: headers(), body: JSON.stringify(ask), signal: state.running.signal });
    if (response.status === 401) the("key").focus();
    if (!response.ok) throw new Error(await explain(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) usage = event.usage;
      const choice = event.choices[0];
      if (!choice) continue;
      add(place, choice);
      written += ask.messages ? choice.delta?.content || "" : choice.text;
      ended = choice.finish_reason || ended;
    }
    const why = ended === "length" ? "the limit was reached" : "the text ended by itself";
    say(usage ? `${fixed(usage.completion_tokens, 0)} tokens after ${fixed(usage.prompt_tokens, 0)} of the prompt; ${why}` : why);
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else say(error.message, true);
  } finally {
    if (ask.messages && written) messages.push({ role: "assistant", content: written });
    else if (ask.messages) {
      // What had no answer was not said: it goes back into the box.
      messages.pop();
      if (turn.isConnected && !the("prompt").value) the("prompt").value = prompt;
      turn.remove();
      place.remove();
    }
    state.running = null;
    busy(false);
  }
};

const clear = () => {
  state.running?.abort();
  state.messages = [];
  the("text").replaceChildren();
  reset();
  state.began = 0;
  show();
  say("");
};

for (const name of ["exit", "draft", "temperature", "limit"]) {
  const shown = () => { the(`${name}-shown`).textContent = name === "temperature" && Number(the(name).value) === 0 ? "0, greedy" : the(name).value; };
  the(name).addEventListener("input", shown);
  shown();
}

const counting = () => {
  const way = the("way").value;
  the("exit").closest("label").classList.toggle("idle", way !== "self-speculative" && way !== "early-exit");
  the("draft").closest("label").classList.toggle("idle", way !== "self-speculative");
};
the("way").addEventListener("change", counting);

// Who moves a slider wants it to count.
for (const name of ["exit", "draft"]) {
  the(name).addEventListener("input", () => {
    const way = the("way").value;
    if (way !== "self-speculative" && !(way === "early-exit" && name === "exit")) the("way").value = "self-speculative";
    counting();
  });
}

for (const radio of document.getElementsByName("mode")) {
  radio.addEventListener("change", () => {
    state.chat = radio.value === "chat";
    the("prompt").placeholder = state.chat ? "Say something" : "Once upon a time";
    clear();
  });
}

the("ask").addEventListener("submit", event => {
  event.preventDefault();
  if (!state.running) write();
});
the("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!state.running) write();
  }
});
the("stop").addEventListener("click", () => state.running?.abort());
the("clear").addEventListener("click", clear);

const meet = async () => {
  const response = await fetch("/v1/models", { headers: headers() });
  if (response.status === 401) {
    the("facts").textContent = await explain(response);
    return;
  }
  say("");
  const model = (await response.json()).data[0];
  const own = model.layerskip;
  state.model = model.id;
  the("facts").textContent = `${model.id} · ${own.layers} layers · context of ${fixed(model.max_model_len, 0)} tokens`;
  const most = Math.max(1, own.layers - 1);
  Object.assign(the("exit"), { max: most, value: Math.min(own.exit_layer, most), disabled: own.layers < 2 });
  the("draft").value = own.draft_length;
  the("limit").max = Math.min(2048, model.max_model_len);
  for (const name of ["exit", "draft", "limit"]) the(name).dispatchEvent(new Event("input"));
  if (own.layers < 2) the("way").value = "autoregressive";
  counting();
  const chat = document.querySelector("input[value=chat]");
  chat.disabled = !own.chat;
  the("chat-mode").title = own.chat ? "" : "this model has no chat template";
};
the("key").addEventListener("change", meet);
show();
counting();
meet().catch(error => say(error.message, true));
